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

from sonolora.tensors import save_tensors

# Raise it when the same input gives another result than before.
_VERSION = "1"


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
    if folder := os.environ.get("SONOLORA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sonolora"


class Cache:
    """Tensors by content key, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors under `key`, made and stored at the first time. A damaged file is made again."""
        path = self._path(key)
        try:
            return load_file(path)
        except (FileNotFoundError, SafetensorError):
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, tensors)
            return tensors

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"
