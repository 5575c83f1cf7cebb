"""Reads model files in the published single-file format, tensor by tensor.

In: a safetensors file whose `__metadata__` holds `config` (JSON) and `model_version`, or a GGUF file.
Out: the parsed header, and modules loaded with exactly the tensors they declare, or an error that names every missing,
unexpected or wrongly shaped tensor. Only these tensors are read.

Source of the format: the published checkpoints; see docs/base-models.md.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError, first_few
from sonolora.core.tensor_file import DTYPES, FLOAT_DTYPES, LENGTH_BYTES, TensorInfo, data_start, parse_header
from sonolora.ltx.weights.gguf_file import block_sizes, dequantise, is_gguf, is_quantised, read_header
from sonolora.ltx.weights.stored_tensor import FLOAT8, added_to, file_of, fold_scales, loaded_dtype, scale_of

EXCERPT_OF = "excerpt_of"  # metadata of a partial file: which whole file its tensors come from
_SAMPLED_TENSORS = 64
_SAMPLED_BYTES = 4096
_SHOWN_NAMES = 8
_CHUNK_BYTES = 32 << 20  # host buffer between file and device, of each reader
_GROUP_BYTES = 16 << 20  # of small tensors that one reader takes together
READERS = 4  # threads; one copies about 2 GB a second out of the page cache
_SCALED_VALUES = 4 << 20
_DEQUANTISED_VALUES = 1 << 20
READABLE = {**FLOAT_DTYPES, **{name: DTYPES[name] for name in FLOAT8}}


@dataclass(frozen=True)
class Checkpoint:
    """The header of a model file; no tensor is loaded."""

    path: Path
    tensors: Mapping[str, TensorInfo]  # of the weights: scales of 8-bit weights are folded in, see `stored_tensor`
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, *, as_stored: bool = False) -> Checkpoint:
        """Read the header; `as_stored` keeps the scales of 8-bit weights as tensors of their own.

        Raises `CheckpointError` when the file is not a complete safetensors or GGUF file.
        """
        try:
            if is_gguf(path):
                metadata, tensors = read_header(path)
                return cls(path, tensors, metadata)
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
        return cls(path, tensors if as_stored else fold_scales(tensors), metadata)

    @property
    def config(self) -> Mapping[str, Any]:
        """The header's `config` object. Raises `CheckpointError` if there is none."""
        config = self.metadata.get("config")
        if not isinstance(config, dict):
            raise CheckpointError(
                f"{self.path}: no model configuration in the header (metadata key `config`), and the sizes are not "
                "those of LTX-2.3: use the file as it was published"
            )
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

        def read(info: TensorInfo) -> bytes:
            with file_of(info, self.path).open("rb") as file:
                file.seek(info.start)
                return file.read(info.end - info.start)

        return fingerprint(self.tensors, self.metadata, map(read, sampled(self.tensors)))


@dataclass(frozen=True)
class MetaCheckpoint(Checkpoint):
    """A checkpoint without a file: names, dtypes and shapes. Its tensors load onto the meta device."""


def sampled(tensors: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """The beginnings of tensors that a fingerprint hashes."""
    infos = [info for _, info in sorted(tensors.items())][:: max(1, len(tensors) // _SAMPLED_TENSORS)]
    scales = [scale for info in infos if (scale := scale_of(info)) is not None]
    return [replace(info, end=min(info.start + _SAMPLED_BYTES, info.end)) for info in (*infos, *scales)]


def fingerprint(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, Any], samples: Iterable[bytes]) -> str:
    """`Checkpoint.fingerprint` from a header and the bytes of what `sampled` returns."""
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
    keep_codes: Callable[[str], bool] = lambda _: False,
) -> None:
    """Load `module` (on the meta device or not) from the file, frozen and in eval mode.

    `checkpoint_name` maps a name in the module's state dict to the name in the file; `names` are all names in the file
    that belong to this module. Both sets must match exactly. Each tensor goes straight to `device` in `dtype`;
    tensors stored as float32 (the scale and shift tables) stay float32. `place` receives each tensor with its name in
    the module and returns the tensor to load instead, or None if it has stored the tensor itself. It receives the codes
    of 8-bit weights instead of the weights for names that `keep_codes` selects.
    Raises `CheckpointError` as `check_module` does.
    """
    check_module(module, checkpoint, checkpoint_name=checkpoint_name, names=names)
    own_names = {checkpoint_name(name): name for name in module.state_dict()}
    state = {}
    codes = {name for name, own in own_names.items() if checkpoint.tensors[name].dtype in FLOAT8 and keep_codes(own)}
    for name, tensor in read_tensors(checkpoint, own_names, device=device, dtype=dtype, codes=codes):
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
    checkpoint: Checkpoint,
    names: Collection[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
    codes: Collection[str] = (),
) -> Iterator[tuple[str, Tensor]]:
    """The named tensors in file order, read by several threads, each straight into its place on `device`.

    Floating-point tensors become `dtype`, except that float32 stays float32; 8-bit weights are multiplied by their
    scale in float32, except those in `codes`, which come as they are stored. Host memory holds a chunk for each thread
    beside the result: the file is not memory-mapped, so a model bound for a GPU does not fill the host's memory. A few
    groups of tensors are read ahead of the one that is taken.
    A `MetaCheckpoint` gives tensors without values.
    Raises `CheckpointError` when the file is too short or a tensor is not floating point.
    """
    if isinstance(checkpoint, MetaCheckpoint):
        for name in names:
            info = checkpoint.tensors[name]
            yield name, torch.empty(info.shape, dtype=loaded_dtype(info, dtype), device="meta")
        return
    checkpoint = checkpoint.local_file(names)
    infos = {name: checkpoint.tensors[name] for name in names}
    by_file: dict[Path, list[str]] = {}
    for name in sorted(names, key=lambda name: infos[name].start):
        by_file.setdefault(file_of(infos[name], checkpoint.path), []).append(name)
    groups = [(path, group) for path, own in by_file.items() for group in _grouped(own, infos)]

    def read(path: Path, group: list[str]) -> tuple[Future[None], dict[str, Tensor]]:
        # Made here and filled there: what counts allocations sees those of its own thread.
        tensors = {}
        for name in group:
            loaded = READABLE[infos[name].dtype] if name in codes else loaded_dtype(infos[name], dtype)
            with torch.inference_mode(False):
                tensors[name] = torch.empty(infos[name].shape, dtype=loaded, device=device)
        return readers.submit(_fill_all, path, tensors, infos, codes), tensors

    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[tuple[Future[None], dict[str, Tensor]]] = deque()
        for at in range(len(groups) + READERS):
            if at < len(groups):
                ahead.append(read(*groups[at]))
            if at >= READERS:
                filled, tensors = ahead.popleft()
                filled.result()
                yield from tensors.items()


def _grouped(names: Sequence[str], infos: Mapping[str, TensorInfo]) -> Iterator[list[str]]:
    """Neighbours together, as far as they are small."""
    group: list[str] = []
    size = 0
    for name in names:
        bytes_ = infos[name].end - infos[name].start
        if group and size + bytes_ > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += bytes_
    if group:
        yield group


def _fill_all(
    path: Path, tensors: Mapping[str, Tensor], infos: Mapping[str, TensorInfo], codes: Collection[str]
) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            for name, tensor in tensors.items():
                what = f"{path}: tensor {name}"
                scale = None if name in codes else _read_scale(file, infos[name], what)
                if is_quantised(infos[name].dtype):
                    _fill_dequantised(tensor, file, infos[name], what)
                else:
                    _fill(tensor, file, infos[name], scale, what)
                if added := added_to(infos[name]):
                    tensor -= added
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def read_scales(checkpoint: Checkpoint, name: str) -> Tensor:
    """The scales of an 8-bit weight for each of its rows, (O, 1) float32 on the CPU; ones if it has none."""
    checkpoint = checkpoint.local_file([name])
    info = checkpoint.tensors[name]
    path = file_of(info, checkpoint.path)
    try:
        with path.open("rb", buffering=0) as file:
            scale = _read_scale(file, info, f"{path}: tensor {name}")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return (torch.ones(1, 1) if scale is None else scale).expand(info.shape[0], 1).contiguous()


def _read_scale(file: FileIO, info: TensorInfo, what: str) -> Tensor | None:
    """The scale of a weight, (1, 1) or (O, 1) float32."""
    if (scale := scale_of(info)) is None:
        return None
    values = torch.empty(scale.shape)
    _fill(values, file, scale, None, f"the scale of {what}")
    return values.view(-1, 1)


def is_readable(dtype: str) -> bool:
    """Whether a tensor with this `TensorInfo.dtype` can be read."""
    return dtype in READABLE or is_quantised(dtype)


def _fill(tensor: Tensor, file: FileIO, info: TensorInfo, scale: Tensor | None, what: str) -> None:
    if info.dtype not in READABLE:
        raise CheckpointError(f"{what} is stored as {info.dtype}; supported are {', '.join(READABLE)}")
    values, dtype = tensor.view(-1), READABLE[info.dtype]
    if info.end - info.start != len(values) * dtype.itemsize:
        raise CheckpointError(f"{what} has {info.end - info.start:,} bytes for {len(values):,} values")
    width = info.shape[-1] if scale is not None else 1
    # Scaled weights go by whole rows, and by fewer: they are in float32 for a moment.
    count = _CHUNK_BYTES // dtype.itemsize if scale is None else max(1, _SCALED_VALUES // width) * width
    file.seek(info.start)
    if scale is None and values.dtype == dtype and values.device.type == "cpu":
        _read_exactly(file, values, what)
        return
    # From pinned memory a copy to a card goes at the speed of the bus.
    stored = torch.empty(min(count, len(values)), dtype=dtype, pin_memory=values.device.type == "cuda")
    for first, part in zip(range(0, max(len(values), 1), count), torch.split(values, count), strict=True):
        read = stored[: len(part)]
        _read_exactly(file, read, what)
        if scale is None:
            part.copy_(read)
        else:
            rows = scale if len(scale) == 1 else scale[first // width :][: len(part) // width]
            part.view(-1, width).copy_(read.view(-1, width).float() * rows)


def _fill_dequantised(tensor: Tensor, file: FileIO, info: TensorInfo, what: str) -> None:
    """Blocks of GGUF, a few at a time: they are in float32 for a moment, several times over."""
    values, (block, size) = tensor.view(-1), block_sizes(info.dtype)
    file.seek(info.start)
    for part in torch.split(values, _DEQUANTISED_VALUES):
        codes = torch.empty(len(part) // block * size, dtype=torch.uint8)
        _read_exactly(file, codes, what)
        part.copy_(torch.from_numpy(dequantise(codes.numpy(), info.dtype)))


def _read_exactly(file: FileIO, target: Tensor, what: str) -> None:
    buffer = target.view(torch.uint8).numpy().data
    while buffer:  # one call reads at most 2 GB
        if not (count := file.readinto(buffer)):
            raise CheckpointError(f"{what}: the file ends before it")
        buffer = buffer[count:]


def _fault(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors {kind}: {first_few(sorted(names), _SHOWN_NAMES)}"
