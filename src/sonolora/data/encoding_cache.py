"""What the networks made of a clip or a caption, kept by content so that it is computed once.

A key is a hash of everything that the result depends on: the samples or the text, the base's fingerprint, the kind
of result and the version of the code that computes it. A changed file, model or program can only miss.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sonolora.core.atomic_files import make_folder
from sonolora.core.tensor_file import save_tensors
from sonolora.core.user_folders import cache_folder

# Raise it when the same input gives another result than before.
_VERSION = "2"


def content_key(kind: str, *parts: str | bytes) -> str:
    """A hash of the parts; their borders count."""
    digest = hashlib.blake2b(f"{_VERSION} {kind}".encode(), digest_size=20)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def default_cache_folder() -> Path:
    """`$SONOLORA_CACHE`, else `sonolora` in the user's cache folder."""
    return Path(os.environ.get("SONOLORA_CACHE") or cache_folder())


class Cache:
    """Tensors by content key, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors under `key`, made and stored at the first time. A damaged file is made again."""
        found = self.find(key)
        return self.put(key, make()) if found is None else found

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under `key`, or None where there are none or their file is damaged."""
        try:
            return load_file(self._path(key))
        except (FileNotFoundError, SafetensorError):
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Store tensors; returns them as they will be found. Raises `OutputError` when they cannot be written."""
        path = self._path(key)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        make_folder(path.parent)
        save_tensors(path, tensors)
        return tensors

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"
