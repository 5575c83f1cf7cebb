"""Latents and text contexts on disk by the content they were computed from, so that they are computed once.

A key is a hash of everything that the result depends on: the samples or the text, the fingerprint of the base, the kind
of result and the version of the code that computes it. A changed file, model or program can only miss.

The cache is optional: an entry that is damaged or cannot be read is a miss, and what cannot be written is not cached.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from sonolora.core.atomic_files import OutputError, make_folder
from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import CheckpointError
from sonolora.data.cache_folder import entries, limit_bytes, prune

_VERSION = "3"  # raise it when the same input gives another result, or the entries another form
_KEPT_SHARE = 0.9  # of the limit, when entries are removed


def content_key(kind: str, *parts: str | bytes) -> str:
    """The key of a result of that kind, computed from these parts."""
    return content_hash(f"{_VERSION} {kind}", *parts)


def content_hash(kind: str, *parts: str | bytes) -> str:
    """A hash of the parts, in 40 hex digits; their boundaries count."""
    digest = hashlib.blake2b(kind.encode(), digest_size=20)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


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
