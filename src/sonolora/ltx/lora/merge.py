"""A checkpoint with LoRAs baked in: W + strength * scale * B A in place of W, everything else byte for byte.

In: a whole checkpoint of the published form and LoRAs, each with a strength. Out: a file with the same table of
tensors and the same metadata, and in it a record of what was merged. It is written from one end to the other: only a
few rows of one layer are held at a time, beside A and B of that layer, whatever the size of the file. The sum is
computed in float32 (float64 where the layer is) and rounded once to the layer's dtype.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolora import __version__
from sonolora.core.atomic_files import atomic_write
from sonolora.core.errors import CheckpointError, InputError
from sonolora.core.tensor_file import FLOAT_DTYPES, LENGTH_BYTES, TensorInfo, data_start, encode_header
from sonolora.ltx.lora.lora_file import LoRAFile, linear_layers, require_fit
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint
from sonolora.ltx.weights.partial_checkpoint import Progress
from sonolora.ltx.weights.tensor_table import published_tensors

RECORD = "merged_loras"  # in the metadata: a JSON list, the oldest first
_KEPT = ("mode", "trigger_phrase", "base", "base_fingerprint", "license")  # what the record keeps of a LoRA's metadata
_FETCH = "A merge needs the whole file: download it, and name it with `sonolora base add NAME --checkpoint FILE ...`"
_BLOCK_BYTES = 8 << 20
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Term:
    """strength * scale * B A, which is added to a layer's weights."""

    lora: LoRAFile
    factor: float


@dataclass
class Merged:
    """What a merge did: sums of squares over the weights of the layers that it changed."""

    layers: int
    weights: float = 0.0
    changes: float = 0.0
    roundings: float = 0.0  # what rounding to the checkpoint's dtype took from the sum or added to it

    @property
    def change(self) -> float:
        """Size of the change in parts of the weights; Frobenius norms, as in the next two."""
        return _ratio(self.changes, self.weights)

    @property
    def rounding(self) -> float:
        """Size of the rounding in parts of the weights."""
        return _ratio(self.roundings, self.weights)

    @property
    def rounding_of_change(self) -> float:
        """Size of the rounding in parts of the change."""
        return _ratio(self.roundings, self.changes)


def merge(
    checkpoint: Checkpoint,
    loras: Sequence[tuple[LoRAFile, float]],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Write `out`, whole or not at all; each LoRA comes with its strength.

    Raises `InputError` for an `out` that is there already (unless `overwrite`) or is one of the files that are read,
    and `CheckpointError` for a base of which tensors are absent and for a LoRA that does not fit it.
    """
    source = _whole(checkpoint)
    terms = _terms(source, loras)
    _require_free(out, source.path, [lora.path for lora, _ in loras], overwrite=overwrite)
    header, start = _header(source, loras)
    size, report = source.path.stat().st_size, Merged(len(terms))
    with atomic_write(out) as temporary, _opened(source.path) as file, temporary.open("wb") as merged:
        merged.write(header)
        done = start
        for piece in _pieces(file, start, size, source, terms, report):
            merged.write(piece)
            done += len(piece)
            if progress:
                progress(done, size)
    return report


def _whole(checkpoint: Checkpoint) -> Checkpoint:
    """The file on this disk, if every tensor is in it."""
    if not checkpoint.path.exists():
        raise CheckpointError(f"{checkpoint.path}: nothing of this base is on this disk yet. {_FETCH}")
    source = Checkpoint.open(checkpoint.path)
    if EXCERPT_OF in source.metadata:
        wanted = published_tensors(source.config).keys() | checkpoint.tensors.keys()
        if absent := sorted(wanted - source.tensors.keys()):
            raise CheckpointError(
                f"{source.path}: only a part of a file on a hub: {len(absent):,} of {len(wanted):,} tensors are "
                f"absent, such as {absent[0]}. {_FETCH}"
            )
    return source


def _terms(source: Checkpoint, loras: Sequence[tuple[LoRAFile, float]]) -> dict[str, list[Term]]:
    """By tensor what is added to it. Layers that do not change are not among them, so that they stay bit for bit."""
    layers = linear_layers(source)
    terms: dict[str, list[Term]] = {}
    for lora, strength in loras:
        require_fit(lora, layers)
        for layer, pair in lora.pairs.items():
            info = source.tensors[f"{PREFIX}{layer}.weight"]
            if info.dtype not in FLOAT_DTYPES:
                raise CheckpointError(
                    f"{source.path}: {layer} is stored as {info.dtype}; a LoRA can be merged into "
                    f"{', '.join(FLOAT_DTYPES)}"
                )
            down, up = lora.read(layer)
            if strength * pair.scale != 0 and down.any() and up.any():
                terms.setdefault(f"{PREFIX}{layer}.weight", []).append(Term(lora, strength * pair.scale))
    return terms


def _require_free(out: Path, base: Path, loras: Sequence[Path], *, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise InputError.of("out", f"{out} does not end with .safetensors")
    if not out.parent.is_dir():
        raise InputError.of("out", f"the folder {out.parent} does not exist")
    if out.exists():
        if any(out.samefile(path) for path in (base, *loras)):
            raise InputError.of("out", f"{out} is one of the files that are merged; choose another name")
        if not overwrite:
            raise InputError.of("out", f"{out} is there already; choose another name, or say --overwrite")
    if (out.parent / "text_encoder").is_dir() and any(path != out for path in out.parent.glob("[!.]*.safetensors")):
        raise InputError.of(
            "out", f"{out.parent} is a base's folder, which holds one checkpoint; choose another folder"
        )
    free, needed = shutil.disk_usage(out.parent).free, base.stat().st_size
    if free < needed:
        raise InputError.of("out", f"{needed / 1e9:.1f} GB are needed in {out.parent}, {free / 1e9:.1f} GB are free")


def _header(source: Checkpoint, loras: Sequence[tuple[LoRAFile, float]]) -> tuple[bytes, int]:
    """The new file's first bytes, and where the old one's tensors begin. Their places stay the same."""
    with _opened(source.path) as file:
        start = data_start(file.read(LENGTH_BYTES), source.path.stat().st_size)
        header: dict[str, Any] = json.loads(file.read(start - LENGTH_BYTES))
    metadata = dict(header.get("__metadata__", {}))
    metadata.pop(EXCERPT_OF, None)
    before = source.metadata.get(RECORD)
    record = [*(before if isinstance(before, list) else []), *(_entry(lora, strength) for lora, strength in loras)]
    header["__metadata__"] = {**metadata, RECORD: json.dumps(record, ensure_ascii=False)}
    return encode_header(header), start


def _entry(lora: LoRAFile, strength: float) -> Mapping[str, object]:
    with _opened(lora.path) as file:
        digest = file_digest(file, "sha256").hexdigest()
    said = {key: lora.metadata[key] for key in _KEPT if key in lora.metadata}
    return {"file": lora.path.name, "sha256": digest, "strength": strength, **said, "sonolora_version": __version__}


def _pieces(
    file: BufferedReader,
    start: int,
    end: int,
    source: Checkpoint,
    terms: Mapping[str, Sequence[Term]],
    report: Merged,
) -> Iterator[bytes | memoryview]:
    """All data of the new file in order; what is not merged is copied."""
    for name in sorted(terms, key=lambda name: source.tensors[name].start):
        info = source.tensors[name]
        yield from _blocks(file, start, info.start)
        layer = name.removeprefix(PREFIX).removesuffix(".weight")
        yield from _merged_rows(file, info, layer, terms[name], report)
        start = info.end
    yield from _blocks(file, start, end)


def _merged_rows(
    file: BufferedReader, info: TensorInfo, layer: str, terms: Sequence[Term], report: Merged
) -> Iterator[memoryview]:
    """A layer's new weights, some rows at a time, as they are stored; adds to the report's sums."""
    dtype = FLOAT_DTYPES[info.dtype]
    exact = torch.promote_types(dtype, torch.float32)
    height, width = info.shape
    products = []
    for term in terms:
        down, up = term.lora.read(layer)
        products.append((term.factor * up.to(exact), down.to(exact)))
    rows, row_bytes = max(1, _VALUES_AT_ONCE // width), width * dtype.itemsize
    for first in range(0, height, rows):
        last = min(first + rows, height)
        data = bytearray().join(_blocks(file, info.start + first * row_bytes, info.start + last * row_bytes))
        old = torch.frombuffer(data, dtype=dtype).view(-1, width).to(exact)
        new = old
        for up, down in products:
            new = torch.addmm(new, up[first:last], down)
        stored = new.to(dtype)
        if not stored.isfinite().all():
            raise CheckpointError(f"{layer} would hold NaN or infinity; nothing was written")
        report.weights += _squares(old)
        report.changes += _squares(new - old)
        report.roundings += _squares(stored.to(exact) - new)
        yield stored.view(torch.uint8).numpy().reshape(-1).data


def _squares(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole else 0.0


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


def _blocks(file: BufferedReader, start: int, end: int) -> Iterator[bytes]:
    """The bytes `start` to before `end`. Raises `CheckpointError` when they cannot be read."""
    try:
        file.seek(start)
        while start < end:
            if not (block := file.read(min(_BLOCK_BYTES, end - start))):
                raise CheckpointError(f"{file.name}: became shorter while it was read")
            start += len(block)
            yield block
    except OSError as error:
        raise CheckpointError(f"{file.name}: cannot be read: {error.strerror}") from error
