"""The files of the cache: where they are, how large they may get, and how they are removed. Light to import.

In: a folder. Out: its entries; those that were not used for longest are the first to be removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sonolora.core.atomic_files import OutputError, remove_half_written
from sonolora.core.errors import InputError
from sonolora.core.user_folders import cache_folder

DEFAULT_LIMIT_GB = 20.0
LIMIT_VARIABLE = "SONOLORA_CACHE_GB"
_ENTRY = re.compile(r"[0-9a-f]{40}\.safetensors")


def default_cache_folder() -> Path:
    """`$SONOLORA_CACHE`, else `sonolora` in the user's cache folder."""
    return Path(os.environ.get("SONOLORA_CACHE") or cache_folder())


def limit_bytes() -> int:
    """`$SONOLORA_CACHE_GB` in bytes, by default 20 GB. Raises `InputError` when it is not a number from 0 on."""
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
    try:
        size = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise InputError.of(LIMIT_VARIABLE, f"must be a size in GB, such as 20, or 0 for no cache; found {text!r}")
    return size


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its size in bytes, and when it was last used (unix seconds)."""

    path: Path
    size: int
    used: float


def entries(folder: Path) -> Iterator[Entry]:
    """All entries of the cache in a folder."""
    for path in folder.glob("[0-9a-f][0-9a-f]/*"):
        with suppress(OSError):  # removed by another process
            if _ENTRY.fullmatch(path.name):
                stat = path.stat()
                yield Entry(path, stat.st_size, stat.st_mtime)


def prune(folder: Path, size: int) -> tuple[int, int]:
    """Remove entries, those not used for longest first, until the rest has at most `size` bytes.

    Returns how many were removed, and their bytes. Raises `OutputError` when one cannot be removed.
    """
    kept = list(entries(folder))
    total = before = sum(entry.size for entry in kept)
    removed = 0
    for entry in sorted(kept, key=lambda entry: entry.used):
        if total <= size:
            break
        try:
            entry.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(entry.path, error) from error
        total -= entry.size
        removed += 1
    return removed, before - total


def clear(folder: Path) -> tuple[int, int]:
    """Remove all entries, and what killed processes left half-written; other files stay. Returns as `prune` does."""
    result = prune(folder, -1)
    for part in folder.glob("[0-9a-f][0-9a-f]"):
        remove_half_written(part)
    return result
