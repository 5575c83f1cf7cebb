"""Registered base models: a small JSON file in the user's configuration folder.

In: a name. Out: the paths of its checkpoint and text encoder. The file is `$SONOLORA_BASES`, else
`sonolora/bases.json` in the user's configuration folder; it is written atomically.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sonolora.core.atomic_files import make_folder, write_json
from sonolora.core.errors import SonoloraError
from sonolora.core.user_folders import config_folder


@dataclass(frozen=True)
class Entry:
    """The files of a base. A checkpoint from a hub need not be downloaded yet."""

    checkpoint: Path
    text_encoder: Path  # a folder or a file
    parts: tuple[Path, ...] = ()  # the other files of a checkpoint in several files
    distilled: bool | None = None  # None: the header or the name says so, or nothing does


def stored_record(fingerprint: str) -> str:
    """The object that says that a base is in an object store; see `stored_base`."""
    return f"bases/{fingerprint}/base.json"


def registry_file() -> Path:
    """Where the names are kept."""
    return Path(os.environ.get("SONOLORA_BASES") or config_folder() / "bases.json")


def registered() -> dict[str, Entry]:
    """All entries by name, in the order they were added. Raises `SonoloraError` when the file cannot be read."""
    file = registry_file()
    try:
        entries = json.loads(file.read_bytes())["bases"].items()
        return {name: _parse(entry) for name, entry in entries}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SonoloraError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SonoloraError(f"{file}: not a list of bases; fix or remove it, and add the bases again") from error


def register(name: str, entry: Entry) -> None:
    """Register a base under a name, replacing any entry of that name."""
    with _locked_entries() as entries:
        entries[name] = entry


def unregister(name: str) -> Entry:
    """Remove an entry; the base's files are not touched. Raises `SonoloraError` for an unknown name."""
    with _locked_entries() as entries:
        if name not in entries:
            raise SonoloraError(f"no base '{name}' is registered; registered are {', '.join(entries) or 'none'}")
        return entries.pop(name)


@contextmanager
def _locked_entries() -> Iterator[dict[str, Entry]]:
    """The entries, written back on exit, under a lock."""
    file = registry_file()
    make_folder(file.parent)
    with FileLock(file.with_name(f"{file.name}.lock")):
        entries = registered()
        yield entries
        paths = {
            name: {
                "checkpoint": str(entry.checkpoint),
                "text_encoder": str(entry.text_encoder),
                **({"parts": list(map(str, entry.parts))} if entry.parts else {}),
                **({"distilled": entry.distilled} if entry.distilled is not None else {}),
            }
            for name, entry in entries.items()
        }
        write_json(file, {"bases": paths})


def _parse(entry: Mapping[str, Any]) -> Entry:
    return Entry(
        Path(entry["checkpoint"]),
        Path(entry["text_encoder"]),
        tuple(map(Path, entry.get("parts", ()))),
        entry.get("distilled"),
    )
