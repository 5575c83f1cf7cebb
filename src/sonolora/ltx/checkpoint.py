"""Reads model files in the published single-file format, tensor by tensor.

In: a safetensors file whose `__metadata__` holds `config` (JSON) and `model_version`.
Out: the parsed header, and modules filled with exactly the tensors that they have, or an error that names every
tensor that is missing, left over or of another shape. Nothing else of the file is read.

Source of the format: the published checkpoints; see docs/base-models.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sonolora.errors import CheckpointError

MAX_HEADER_BYTES = 100 * 2**20
_SAMPLED_TENSORS = 64
_SAMPLED_BYTES = 4096
_SHOWN_NAMES = 8


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file: its safetensors dtype name, shape, and byte span from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Checkpoint:
    """An opened model file: everything its header says, and none of its tensors."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read the header. Raises `CheckpointError` when the file is not a complete safetensors file."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                    raise CheckpointError(f"{path}: not a safetensors file (its header length makes no sense)")
                header = json.loads(file.read(length))
                metadata, tensors = _parsed_header(header, 8 + length)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a safetensors file (its header is no table of tensors)") from error
        end = max((info.end for info in tensors.values()), default=8 + length)
        if end != size:
            raise CheckpointError(
                f"{path}: incomplete or damaged: the header describes {end:,} bytes, the file has {size:,}. "
                "Copy or download it again."
            )
        return cls(path, tensors, metadata)

    @property
    def config(self) -> Mapping[str, Any]:
        """The header's `config` object. Raises `CheckpointError` when the file has none."""
        config = self.metadata.get("config")
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.path}: no model configuration in the file's header")
        return config

    def section(self, name: str) -> Mapping[str, Any]:
        """One section of the config (`transformer`, `audio_vae`, ...)."""
        section = self.config.get(name)
        if not isinstance(section, dict):
            raise CheckpointError(f"{self.path}: the header's config has no section '{name}'")
        return section

    def names(self, prefix: str) -> set[str]:
        """The full names of all tensors under a prefix."""
        return {name for name in self.tensors if name.startswith(prefix)}

    def fingerprint(self) -> str:
        """16 hex digits that differ between models.

        Hashes the header and a sample of the data (the first 4 KiB of up to 64 tensors, evenly spread), so that a
        46 GB file is told apart in milliseconds.
        """
        digest = hashlib.sha256()
        ordered = sorted(self.tensors.items())
        for name, info in ordered:
            digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
        digest.update(json.dumps(self.metadata, sort_keys=True).encode())
        stride = max(1, len(ordered) // _SAMPLED_TENSORS)
        with self.path.open("rb") as file:
            for _, info in ordered[::stride]:
                file.seek(info.start)
                digest.update(file.read(min(_SAMPLED_BYTES, info.end - info.start)))
        return digest.hexdigest()[:16]


def _parsed_header(header: Any, start: int) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    metadata = {key: _parsed(value) for key, value in header.pop("__metadata__", {}).items()}
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]), start + first, start + last)
    return metadata, tensors


def _parsed(value: str) -> Any:
    """Metadata values are JSON where they can be (the config) and plain text otherwise (the version)."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, dict | list) else value


def load_module(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    file_name: Callable[[str], str],
    claims: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fill `module` (on the meta device or not) with its tensors from the file, frozen and in eval mode.

    `file_name` maps a name of the module's state dict to the name in the file; `claims` are the names in the file
    that belong to this module. Both sides must match exactly. Tensors go one at a time straight to `device` in
    `dtype`; those stored in float32 (the scale and shift tables) stay float32.
    Raises `CheckpointError` naming every tensor that is missing, unexpected or of another shape.
    """
    wanted = {file_name(name): (name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()}
    faults = [
        _fault("missing", [name for name in wanted if name not in checkpoint.tensors]),
        _fault("unexpected", [name for name in claims if name not in wanted]),
        _fault(
            "of another shape",
            [
                f"{name} {checkpoint.tensors[name].shape}, expected {shape}"
                for name, (_, shape) in wanted.items()
                if name in checkpoint.tensors and checkpoint.tensors[name].shape != shape
            ],
        ),
    ]
    if any(faults):
        raise CheckpointError(
            f"{checkpoint.path} does not fit {type(module).__name__}: " + "; ".join(filter(None, faults))
        )
    state = {}
    try:
        with safe_open(checkpoint.path, framework="pt", device=str(device)) as file:
            for name, (own_name, _) in wanted.items():
                tensor = file.get_tensor(name)
                keep = not tensor.is_floating_point() or tensor.dtype == torch.float32
                # A fresh copy: a view would keep the whole file mapped.
                state[own_name] = tensor.clone() if keep else tensor.to(dtype, copy=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.path}: cannot be read: {error}") from error
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


def _fault(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{len(names)} tensors {kind}: {shown}{more}"
