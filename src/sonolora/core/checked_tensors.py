"""Tensors in a safetensors file with a digest of its content, so that damage is found when it is loaded.

In: tensors and metadata. Out: the file; or its content, or `DamagedFileError`. Files without a digest, as version 0.1
wrote them, are loaded unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sonolora.core.errors import CheckpointError, DamagedFileError
from sonolora.core.tensor_file import save_tensors

_DIGEST = "content_digest"


def save_checked(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write atomically, with the digest among the metadata. Raises `OutputError`."""
    save_tensors(path, tensors, {**metadata, _DIGEST: content_digest(tensors, metadata)})


def load_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises `DamagedFileError` for damaged content, `CheckpointError` for no file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    digest = metadata.pop(_DIGEST, None)
    if digest is not None and digest != content_digest(tensors, metadata):
        raise DamagedFileError(f"{path} is damaged: its content does not match its digest")
    return tensors, metadata


def content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of names, dtypes, shapes, values and metadata; their order does not count."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
