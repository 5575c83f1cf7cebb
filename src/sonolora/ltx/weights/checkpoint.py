"""Reads model files in the published single-file format, tensor by tensor.

In: a safetensors file whose `__metadata__` holds `config` (JSON) and `model_version`.
Out: the parsed header, and modules filled with exactly the tensors that they have, or an error that names every
tensor that is missing, left over or of another shape. Nothing else of the file is read.

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

EXCERPT_OF = "excerpt_of"  # metadata of a file that holds some tensors of another: what that one was
_SAMPLED_TENSORS = 64
_SAMPLED_BYTES = 4096
_SHOWN_NAMES = 8
_PIECE_BYTES = 32 << 20  # of a tensor on its way


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
                start = data_start(file.read(LENGTH_BYTES), size)
                metadata, tensors = parse_header(file.read(start - LENGTH_BYTES))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a safetensors file (its header is no table of tensors)") from error
        end = max((info.end for info in tensors.values()), default=start)
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

    def subset(self, names: Collection[str]) -> Checkpoint:  # noqa: ARG002 - for those that are not all here
        """A file on this disk to read these tensors from: this one. A checkpoint on a hub fetches what it lacks."""
        return self

    def fingerprint(self) -> str:
        """16 hex digits that differ between models.

        Hashes the header and a sample of the data (the first 4 KiB of up to 64 tensors, evenly spread), so that a
        46 GB file is told apart in milliseconds. An excerpt of a file has the fingerprint of that file.
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
class Outline(Checkpoint):
    """A file that is nowhere: names, dtypes and shapes. Its tensors are read onto the meta device."""


def sampled(tensors: Mapping[str, TensorInfo]) -> list[tuple[int, int]]:
    """Start and end of the bytes of a file that its fingerprint looks at."""
    infos = [info for _, info in sorted(tensors.items())]
    return [
        (info.start, min(info.start + _SAMPLED_BYTES, info.end))
        for info in infos[:: max(1, len(infos) // _SAMPLED_TENSORS)]
    ]


def fingerprint(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, Any], samples: Iterable[bytes]) -> str:
    """`Checkpoint.fingerprint` from a header and the bytes that `sampled` names, wherever the file is."""
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
    file_name: Callable[[str], str],
    claims: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
    hold: Callable[[str, Tensor], Tensor | None] = lambda _, tensor: tensor,
) -> None:
    """Fill `module` (on the meta device or not) with its tensors from the file, frozen and in eval mode.

    `file_name` maps a name of the module's state dict to the name in the file; `claims` are the names in the file
    that belong to this module. Both sides must match exactly. Tensors go one at a time straight to `device` in
    `dtype`; those stored in float32 (the scale and shift tables) stay float32. `hold` is handed each as it is read,
    with its name in the module, and returns what is loaded in its place, or None when it has put it away itself.
    Raises `CheckpointError` as `check_module` does.
    """
    check_module(module, checkpoint, file_name=file_name, claims=claims)
    wanted = {file_name(name): name for name in module.state_dict()}
    state = {}
    for name, tensor in read_tensors(checkpoint, wanted, device=device, dtype=dtype):
        if (held := hold(wanted[name], tensor)) is not None:
            state[wanted[name]] = held
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


@contextmanager
def let_go_after(module: nn.Module) -> Iterator[None]:
    """A module on the meta device is filled within it, and is empty again behind it."""
    empty = module.state_dict()
    try:
        yield
    finally:
        module.load_state_dict(empty, strict=True, assign=True)


def check_module(
    module: nn.Module, checkpoint: Checkpoint, *, file_name: Callable[[str], str], claims: Iterable[str]
) -> None:
    """Hold a file's header to what `load_module` would read with these arguments.

    Raises `CheckpointError` naming every tensor that is missing, unexpected or of another shape.
    """
    wanted = {file_name(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    faults = [
        _fault("missing", [name for name in wanted if name not in checkpoint.tensors]),
        _fault("unexpected", [name for name in claims if name not in wanted]),
        _fault(
            "of another shape",
            [
                f"{name} {checkpoint.tensors[name].shape}, expected {shape}"
                for name, shape in wanted.items()
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
    """The named tensors in the order of the file, each put on `device` piece by piece as it is read.

    Floating point becomes `dtype`, but float32 stays float32. Beside what stays, the host holds one small piece:
    nothing is mapped and no tensor is held twice, so that its memory is not filled by what goes to a card.
    An `Outline` gives tensors without values.
    Raises `CheckpointError` when the file ends too soon or a tensor is of another kind than bfloat16 and floats.
    """
    if isinstance(checkpoint, Outline):
        for name in names:
            info = checkpoint.tensors[name]
            yield name, torch.empty(info.shape, dtype=_as_held(info, dtype), device="meta")
        return
    checkpoint = checkpoint.subset(names)
    piece = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
    try:
        with checkpoint.path.open("rb") as file:
            for name in sorted(names, key=lambda name: checkpoint.tensors[name].start):
                info = checkpoint.tensors[name]
                tensor = torch.empty(info.shape, dtype=_as_held(info, dtype), device=device)
                _fill(tensor, file, info, piece, f"{checkpoint.path}: tensor {name}")
                yield name, tensor
    except OSError as error:
        raise CheckpointError(f"{checkpoint.path}: cannot be read: {error.strerror}") from error


def _as_held(info: TensorInfo, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if info.dtype == "F32" else dtype


def _fill(tensor: Tensor, file: BinaryIO, info: TensorInfo, piece: Tensor, which: str) -> None:
    if info.dtype not in FLOAT_DTYPES:
        raise CheckpointError(f"{which} is stored as {info.dtype}; readable are {', '.join(FLOAT_DTYPES)}")
    values, stored = tensor.view(-1), piece.view(FLOAT_DTYPES[info.dtype])
    if info.end - info.start != len(values) * stored.itemsize:
        raise CheckpointError(f"{which} has {info.end - info.start:,} bytes for {len(values):,} values")
    file.seek(info.start)
    for part in torch.split(values, len(stored)):
        read = stored[: len(part)]
        if file.readinto(read.view(torch.uint8).numpy()) != read.nbytes:  # type: ignore[attr-defined]
            raise CheckpointError(f"{which}: the file ends before it")
        part.copy_(read)


def _fault(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors {kind}: {first_few(sorted(names), _SHOWN_NAMES)}"
