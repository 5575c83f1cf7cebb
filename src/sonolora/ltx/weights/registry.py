"""The bases that the user has given a name: a small JSON file in the user's configuration folder.

In: a name. Out: the paths of its checkpoint and of its text encoder. The file is `$SONOLORA_BASES`, else
`sonolora/bases.json` where configuration lies; it is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sonolora.core.atomic_files import make_folder, write_json
from sonolora.core.errors import SonoloraError
from sonolora.core.user_folders import config_folder


@dataclass(frozen=True)
class Entry:
    """Where a base lies. The checkpoint of a hub need not be there yet."""

    checkpoint: Path
    text_encoder: Path


def registry_file() -> Path:
    """Where the names are kept."""
    return Path(os.environ.get("SONOLORA_BASES") or config_folder() / "bases.json")


def registered() -> dict[str, Entry]:
    """All names in their order. Raises `SonoloraError` when the file is there and cannot be read."""
    file = registry_file()
    try:
        entries = json.loads(file.read_bytes())["bases"].items()
        return {name: Entry(Path(entry["checkpoint"]), Path(entry["text_encoder"])) for name, entry in entries}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SonoloraError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SonoloraError(f"{file}: not a list of bases; mend or remove it, and add the bases again") from error


def register(name: str, entry: Entry) -> None:
    """Keep a base under a name; one of that name before is replaced."""
    with _changing() as entries:
        entries[name] = entry


def unregister(name: str) -> Entry:
    """Forget a name; no file is touched. Raises `SonoloraError` when it is not there."""
    with _changing() as entries:
        if name not in entries:
            raise SonoloraError(f"no base '{name}' is registered; registered are {', '.join(entries) or 'none'}")
        return entries.pop(name)


@contextmanager
def _changing() -> Iterator[dict[str, Entry]]:
    """The names, written back at the end; two processes take turns."""
    file = registry_file()
    make_folder(file.parent)
    with FileLock(file.with_name(f"{file.name}.lock")):
        entries = registered()
        yield entries
        paths = {
            name: {"checkpoint": str(entry.checkpoint), "text_encoder": str(entry.text_encoder)}
            for name, entry in entries.items()
        }
        write_json(file, {"bases": paths})
