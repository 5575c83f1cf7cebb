"""Latents and text contexts on disk by the content they were computed from, so that they are computed once.

A key is a hash of everything that the result depends on: the samples or the text, the fingerprint of the base, the kind
of result and the version of the code that computes it. A changed file, model or program can only miss.

The cache is optional. An entry that is damaged or cannot be read is a miss, and what cannot be written is not cached.
Beyond its size limit the entries that were not used for longest are removed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sonolora.core.atomic_files import OutputError, make_folder, remove_half_written
from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import CheckpointError, InputError
from sonolora.core.user_folders import cache_folder

DEFAULT_LIMIT_GB = 20.0
_LIMIT = "SONOLORA_CACHE_GB"  # environment
_VERSION = "3"  # raise it when the same input gives another result, or the entries another form
_ENTRY = re.compile(r"[0-9a-f]{40}\.safetensors")
_KEPT_SHARE = 0.9  # of the limit, when entries are removed


def content_key(kind: str, *parts: str | bytes) -> str:
    """A hash of the parts; their boundaries count."""
    digest = hashlib.blake2b(f"{_VERSION} {kind}".encode(), digest_size=20)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def default_cache_folder() -> Path:
    """`$SONOLORA_CACHE`, else `sonolora` in the user's cache folder."""
    return Path(os.environ.get("SONOLORA_CACHE") or cache_folder())


def limit_bytes() -> int:
    """`$SONOLORA_CACHE_GB` in bytes, by default 20 GB. Raises `InputError` when it is not a number from 0 on."""
    text = os.environ.get(_LIMIT) or str(DEFAULT_LIMIT_GB)
    try:
        size = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise InputError.of(_LIMIT, f"must be a size in GB, such as 20, or 0 for no cache; found {text!r}")
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


class Cache:
    """Tensors by content key, one file each. `warn` is called once, if the cache cannot be written."""

    def __init__(self, folder: Path, limit: int | None = None, warn: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._limit = limit_bytes() if limit is None else limit
        self._warn = warn
        self._size: int | None = None  # of all entries; unknown before the first is written
        self._writable = True

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors under `key`; made, and stored, where there are none."""
        cached = self.find(key)
        return self.put(key, make()) if cached is None else cached

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under `key`; None where there are none, or they cannot be read, or are not what was stored."""
        path = self._path(key)
        try:
            tensors, metadata = load_checked(path)
        except CheckpointError:  # missing, unreadable, damaged
            return None
        if metadata != {"key": key} or not _all_finite(tensors):
            return None
        with suppress(OSError):
            os.utime(path)
        return tensors

    def put(self, key: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Store tensors, if that is possible; returns them as `find` will."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._writable and size <= self._limit and _all_finite(tensors):
            path = self._path(key)
            try:
                make_folder(path.parent)
                save_checked(path, tensors, {"key": key})
                self._keep_within_limit(size)
            except OutputError as error:
                self._writable = False
                # Without the path, which may be of a server, and is no concern of its clients.
                self._warn(f"the cache cannot be written ({error.reason}): the run continues without it")
        return tensors

    def _keep_within_limit(self, added: int) -> None:
        if self._size is None:
            self._size = sum(entry.size for entry in entries(self._folder))
        else:
            self._size += added
        if self._size > self._limit:
            target = int(_KEPT_SHARE * self._limit)
            prune(self._folder, target)
            self._size = target

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def _all_finite(tensors: dict[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())
