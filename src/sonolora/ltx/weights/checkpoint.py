"""Reads model files in the published single-file format, tensor by tensor.

In: a safetensors file whose `__metadata__` holds `config` (JSON) and `model_version`.
Out: the parsed header, and modules loaded with exactly the tensors they declare, or an error that names every missing,
unexpected or wrongly shaped tensor. Only these tensors are read.

Source of the format: the published checkpoints; see docs/base-models.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError, first_few
from sonolora.core.tensor_file import FLOAT_DTYPES, LENGTH_BYTES, TensorInfo, data_start, parse_header

EXCERPT_OF = "excerpt_of"  # metadata of a partial file: which whole file its tensors come from
_SAMPLED_TENSORS = 64
_SAMPLED_BYTES = 4096
_SHOWN_NAMES = 8
_CHUNK_BYTES = 32 << 20  # host buffer between file and device


@dataclass(frozen=True)
class Checkpoint:
    """The header of a model file; no tensor is loaded."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read the header. Raises `CheckpointError` when the file is not a complete safetensors file."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                start = data_start(file.read(LENGTH_BYTES), size)
                metadata, tensors = parse_header(file.read(start - LENGTH_BYTES))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a safetensors file (its header is not a table of tensors)") from error
        end = max((info.end for info in tensors.values()), default=start)
        if end != size:
            raise CheckpointError(
                f"{path}: incomplete or damaged: the header describes {end:,} bytes, the file has {size:,}. "
                "Copy or download it again."
            )
        return cls(path, tensors, metadata)

    @property
    def config(self) -> Mapping[str, Any]:
        """The header's `config` object. Raises `CheckpointError` if there is none."""
        config = self.metadata.get("config")
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.path}: the header has no model configuration (metadata key `config`)")
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

    def local_file(self, names: Collection[str]) -> Checkpoint:  # noqa: ARG002 - a checkpoint on a hub needs them
        """A file on this disk that holds these tensors. A checkpoint on a hub downloads what is missing."""
        return self

    def fingerprint(self) -> str:
        """16 hex digits that identify the model.

        Hashes the header and a sample of the data (the first 4 KiB of up to 64 evenly spread tensors), which takes
        milliseconds for a 46 GB file. A partial file has the fingerprint of the whole one.
        """
        excerpt_of = self.metadata.get(EXCERPT_OF)
        if isinstance(excerpt_of, dict):
            return str(excerpt_of["fingerprint"])
        with self.path.open("rb") as file:

            def read(start: int, end: int) -> bytes:
                file.seek(start)
                return file.read(end - start)

            return fingerprint(self.tensors, self.metadata, (read(*span) for span in sampled(self.tensors)))


@dataclass(frozen=True)
class MetaCheckpoint(Checkpoint):
    """A checkpoint without a file: names, dtypes and shapes. Its tensors load onto the meta device."""


def sampled(tensors: Mapping[str, TensorInfo]) -> list[tuple[int, int]]:
    """The byte ranges (start, end) that a fingerprint hashes."""
    infos = [info for _, info in sorted(tensors.items())]
    return [
        (info.start, min(info.start + _SAMPLED_BYTES, info.end))
        for info in infos[:: max(1, len(infos) // _SAMPLED_TENSORS)]
    ]


def fingerprint(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, Any], samples: Iterable[bytes]) -> str:
    """`Checkpoint.fingerprint` from a header and the bytes of the ranges that `sampled` returns."""
    digest = hashlib.sha256()
    for name, info in sorted(tensors.items()):
        digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
    digest.update(json.dumps(metadata, sort_keys=True).encode())
    for sample in samples:
        digest.update(sample)
    return digest.hexdigest()[:16]


def load_module(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    checkpoint_name: Callable[[str], str],
    names: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
    place: Callable[[str, Tensor], Tensor | None] = lambda _, tensor: tensor,
) -> None:
    """Load `module` (on the meta device or not) from the file, frozen and in eval mode.

    `checkpoint_name` maps a name in the module's state dict to the name in the file; `names` are all names in the file
    that belong to this module. Both sets must match exactly. Each tensor goes straight to `device` in `dtype`;
    tensors stored as float32 (the scale and shift tables) stay float32. `place` receives each tensor with its name in
    the module and returns the tensor to load instead, or None if it has stored the tensor itself.
    Raises `CheckpointError` as `check_module` does.
    """
    check_module(module, checkpoint, checkpoint_name=checkpoint_name, names=names)
    own_names = {checkpoint_name(name): name for name in module.state_dict()}
    state = {}
    for name, tensor in read_tensors(checkpoint, own_names, device=device, dtype=dtype):
        if (placed := place(own_names[name], tensor)) is not None:
            state[own_names[name]] = placed
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


@contextmanager
def unloaded_on_exit(module: nn.Module) -> Iterator[None]:
    """Give a module on the meta device its meta tensors back on exit, which frees what was loaded into it."""
    meta_state = module.state_dict()
    try:
        yield
    finally:
        module.load_state_dict(meta_state, strict=True, assign=True)


def check_module(
    module: nn.Module, checkpoint: Checkpoint, *, checkpoint_name: Callable[[str], str], names: Iterable[str]
) -> None:
    """Check that `load_module` can load the file with these arguments; only the header is read.

    Raises `CheckpointError` naming every tensor that is missing, unexpected or wrongly shaped.
    """
    shapes = {checkpoint_name(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    faults = [
        _fault("missing", [name for name in shapes if name not in checkpoint.tensors]),
        _fault("unexpected", [name for name in names if name not in shapes]),
        _fault(
            "of another shape",
            [
                f"{name} {checkpoint.tensors[name].shape}, expected {shape}"
                for name, shape in shapes.items()
                if name in checkpoint.tensors and checkpoint.tensors[name].shape != shape
            ],
        ),
    ]
    if any(faults):
        raise CheckpointError(
            f"{checkpoint.path} does not fit {type(module).__name__}: " + "; ".join(filter(None, faults))
        )


def read_tensors(
    checkpoint: Checkpoint, names: Collection[str], *, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The named tensors in file order, each copied to `device` chunk by chunk as it is read.

    Floating-point tensors become `dtype`, except that float32 stays float32. Host memory holds one small chunk beside
    the result: the file is not memory-mapped, so a model bound for a GPU does not fill the host's memory.
    A `MetaCheckpoint` gives tensors without values.
    Raises `CheckpointError` when the file is too short or a tensor is not floating point.
    """
    if isinstance(checkpoint, MetaCheckpoint):
        for name in names:
            info = checkpoint.tensors[name]
            yield name, torch.empty(info.shape, dtype=_loaded_dtype(info, dtype), device="meta")
        return
    checkpoint = checkpoint.local_file(names)
    chunk = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)
    try:
        with checkpoint.path.open("rb") as file:
            for name in sorted(names, key=lambda name: checkpoint.tensors[name].start):
                info = checkpoint.tensors[name]
                tensor = torch.empty(info.shape, dtype=_loaded_dtype(info, dtype), device=device)
                _fill(tensor, file, info, chunk, f"{checkpoint.path}: tensor {name}")
                yield name, tensor
    except OSError as error:
        raise CheckpointError(f"{checkpoint.path}: cannot be read: {error.strerror}") from error


def _loaded_dtype(info: TensorInfo, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if info.dtype == "F32" else dtype


def _fill(tensor: Tensor, file: BinaryIO, info: TensorInfo, chunk: Tensor, what: str) -> None:
    if info.dtype not in FLOAT_DTYPES:
        raise CheckpointError(f"{what} is stored as {info.dtype}; supported are {', '.join(FLOAT_DTYPES)}")
    values, stored = tensor.view(-1), chunk.view(FLOAT_DTYPES[info.dtype])
    if info.end - info.start != len(values) * stored.itemsize:
        raise CheckpointError(f"{what} has {info.end - info.start:,} bytes for {len(values):,} values")
    file.seek(info.start)
    for part in torch.split(values, len(stored)):
        read = stored[: len(part)]
        if file.readinto(read.view(torch.uint8).numpy()) != read.nbytes:  # type: ignore[attr-defined]
            raise CheckpointError(f"{what}: the file ends before it")
        part.copy_(read)


def _fault(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors {kind}: {first_few(sorted(names), _SHOWN_NAMES)}"
