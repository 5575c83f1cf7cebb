"""Merges LoRAs into a checkpoint: W + strength * update(W) replaces W; everything else is copied unchanged.

In: a whole checkpoint in the published format, and LoRAs with a strength each. Out: a file with the same tensor table
and metadata, plus a record of what was merged. The file is written sequentially. In memory are a few rows of one layer
and the factors of its updates; an update that is not a plain LoRA is computed for the whole layer. The sum is computed
in float32 (float64 for a float64 layer) and rounded once to the layer's dtype. All updates refer to the original W.
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
from sonolora.ltx.lora.lora_file import LoRAFile
from sonolora.ltx.lora.lora_fit import linear_layers, require_any, unused_layers
from sonolora.ltx.lora.lora_names import weight_name
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint
from sonolora.ltx.weights.partial_checkpoint import Progress
from sonolora.ltx.weights.stored_tensor import files_of
from sonolora.ltx.weights.tensor_table import published_tensors

RECORD = "merged_loras"  # in the metadata: a JSON list, the oldest first
_RECORDED = ("mode", "trigger_phrase", "base", "base_fingerprint", "license")  # metadata of a LoRA in the record
_DOWNLOAD = (
    "A merge needs the whole file: download it, and register it with `sonolora base add NAME --checkpoint FILE ...`"
)
_BLOCK_BYTES = 8 << 20
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Term:
    """strength * update(W), added to the weight W of a layer."""

    lora: LoRAFile
    strength: float


@dataclass
class MergeReport:
    """What a merge did: the number of changed layers, and sums of squares over their weights."""

    layers: int
    unused: Sequence[Mapping[str, str]]  # for each LoRA, why layers of it are not used
    weights: float = 0.0
    changes: float = 0.0
    roundings: float = 0.0  # errors of rounding to the checkpoint's dtype

    @property
    def change(self) -> float:
        """Norm of the change relative to the weights; Frobenius norms, as in the next two."""
        return _ratio(self.changes, self.weights)

    @property
    def rounding(self) -> float:
        """Norm of the rounding error relative to the weights."""
        return _ratio(self.roundings, self.weights)

    @property
    def rounding_of_change(self) -> float:
        """Norm of the rounding error relative to the change."""
        return _ratio(self.roundings, self.changes)


def merge(
    checkpoint: Checkpoint,
    loras: Sequence[tuple[LoRAFile, float]],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Write `out` atomically; each LoRA comes with its strength. Layers that do not fit the base are not used.

    Raises `InputError` for an `out` that exists (unless `overwrite`) or is one of the input files, and
    `CheckpointError` for a base with missing tensors and for a LoRA of which no layer fits.
    """
    source = _whole_file(checkpoint)
    unused = [unused_layers(lora, linear_layers(source)) for lora, _ in loras]
    terms = _terms(source, loras, unused)
    _require_writable(out, source.path, [lora.path for lora, _ in loras], overwrite=overwrite)
    header, start = _header(source, loras)
    size = source.path.stat().st_size
    reasons = [{**why, **lora.skipped} for why, (lora, _) in zip(unused, loras, strict=True)]
    report = MergeReport(len(terms), reasons)
    with atomic_write(out) as temporary, _opened(source.path) as file, temporary.open("wb") as merged:
        merged.write(header)
        done = start
        for piece in _pieces(file, start, size, source, terms, report):
            merged.write(piece)
            done += len(piece)
            if progress:
                progress(done, size)
    return report


def _whole_file(checkpoint: Checkpoint) -> Checkpoint:
    """The file on this disk. Raises `CheckpointError` if a tensor is missing in it."""
    if not checkpoint.path.exists():
        raise CheckpointError(f"{checkpoint.path}: no tensor of this base is on this disk yet. {_DOWNLOAD}")
    if len(files_of(checkpoint.tensors, checkpoint.path)) > 1:
        raise CheckpointError(f"{checkpoint.path}: this base is in several files; a merge needs it in one")
    source = Checkpoint.open(checkpoint.path)
    if EXCERPT_OF in source.metadata:
        names = published_tensors(source.config).keys() | checkpoint.tensors.keys()
        if missing := sorted(names - source.tensors.keys()):
            raise CheckpointError(
                f"{source.path}: only part of a file on a hub: {len(missing):,} of {len(names):,} tensors are "
                f"missing, such as {missing[0]}. {_DOWNLOAD}"
            )
    return source


def _terms(
    source: Checkpoint, loras: Sequence[tuple[LoRAFile, float]], unused: Sequence[Mapping[str, str]]
) -> dict[str, list[tuple[str, Term]]]:
    """By tensor, the layer and its updates. Layers whose updates are zero are skipped and stay bit-identical."""
    terms: dict[str, list[tuple[str, Term]]] = {}
    for (lora, strength), reasons in zip(loras, unused, strict=True):
        require_any(lora, reasons)
        for layer in (layer for layer in lora.layers if layer not in reasons):
            name = weight_name(layer)
            if source.tensors[name].dtype not in FLOAT_DTYPES:
                raise CheckpointError(
                    f"{source.path}: {layer} is stored as {source.tensors[name].dtype}; a LoRA can be merged into "
                    f"{', '.join(FLOAT_DTYPES)}"
                )
            if strength and _changes(lora, layer):
                terms.setdefault(name, []).append((layer, Term(lora, strength)))
    return terms


def _changes(lora: LoRAFile, layer: str) -> bool:
    """Whether the update of a layer is not zero everywhere."""
    update = lora.layers[layer]
    if update.is_plain_lora:
        return bool(update.scale and all(half.any() for half in lora.read_pair(layer)))
    return update.is_dora or bool(lora.read(layer)(torch.empty(0)).any())


def _require_writable(out: Path, base: Path, loras: Sequence[Path], *, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise InputError.of("out", f"{out} does not end with .safetensors")
    if not out.parent.is_dir():
        raise InputError.of("out", f"the folder {out.parent} does not exist")
    if out.exists():
        if any(out.samefile(path) for path in (base, *loras)):
            raise InputError.of("out", f"{out} is one of the input files; choose another name")
        if not overwrite:
            raise InputError.of("out", f"{out} exists; choose another name, or add --overwrite")
    if (out.parent / "text_encoder").is_dir() and any(path != out for path in out.parent.glob("[!.]*.safetensors")):
        raise InputError.of(
            "out", f"{out.parent} is the folder of a base, which holds exactly one checkpoint; choose another folder"
        )
    free, needed = shutil.disk_usage(out.parent).free, base.stat().st_size
    if free < needed:
        raise InputError.of("out", f"{needed / 1e9:.1f} GB are needed in {out.parent}, {free / 1e9:.1f} GB are free")


def _header(source: Checkpoint, loras: Sequence[tuple[LoRAFile, float]]) -> tuple[bytes, int]:
    """The header bytes of the new file, and the offset of the data in the old one. The tensors keep their order."""
    with _opened(source.path) as file:
        start = data_start(file.read(LENGTH_BYTES), source.path.stat().st_size)
        header: dict[str, Any] = json.loads(file.read(start - LENGTH_BYTES))
    metadata = dict(header.get("__metadata__", {}))
    metadata.pop(EXCERPT_OF, None)
    earlier = source.metadata.get(RECORD)
    record = [*(earlier if isinstance(earlier, list) else []), *(_entry(lora, strength) for lora, strength in loras)]
    header["__metadata__"] = {**metadata, RECORD: json.dumps(record, ensure_ascii=False)}
    return encode_header(header), start


def _entry(lora: LoRAFile, strength: float) -> Mapping[str, object]:
    with _opened(lora.path) as file:
        digest = file_digest(file, "sha256").hexdigest()
    recorded = {key: lora.metadata[key] for key in _RECORDED if key in lora.metadata}
    return {"file": lora.path.name, "sha256": digest, "strength": strength, **recorded, "sonolora_version": __version__}


def _pieces(
    file: BufferedReader,
    start: int,
    end: int,
    source: Checkpoint,
    terms: Mapping[str, Sequence[tuple[str, Term]]],
    report: MergeReport,
) -> Iterator[bytes | memoryview]:
    """All data of the new file in order; unchanged bytes are copied."""
    for name in sorted(terms, key=lambda name: source.tensors[name].start):
        info = source.tensors[name]
        yield from _blocks(file, start, info.start)
        yield from _merged_rows(file, info, terms[name], report)
        start = info.end
    yield from _blocks(file, start, end)


def _merged_rows(
    file: BufferedReader, info: TensorInfo, terms: Sequence[tuple[str, Term]], report: MergeReport
) -> Iterator[memoryview]:
    """A layer's new weights as stored, some rows at a time; adds to the report's sums."""
    dtype = FLOAT_DTYPES[info.dtype]
    exact = torch.promote_types(dtype, torch.float32)
    height, width = info.shape
    rows, row_bytes = max(1, _VALUES_AT_ONCE // width), width * dtype.itemsize

    def read(first: int, last: int) -> Tensor:
        data = bytearray().join(_blocks(file, info.start + first * row_bytes, info.start + last * row_bytes))
        return torch.frombuffer(data, dtype=dtype).view(-1, width).to(exact)

    pairs, updates = [], []
    for layer, term in terms:
        update = term.lora.layers[layer]
        if update.is_plain_lora:
            down, up = term.lora.read_pair(layer)
            pairs.append((term.strength * update.scale * up.to(exact), down.to(exact)))
        else:
            updates.append(term.strength * term.lora.read(layer)(read(0, height)).to(exact))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        old = read(first, last)
        new = old
        for up, down in pairs:
            new = torch.addmm(new, up[first:last], down)
        for whole in updates:
            new = new + whole[first:last]
        stored = new.to(dtype)
        if not stored.isfinite().all():
            raise CheckpointError(f"{terms[0][0]} would hold NaN or infinity; nothing was written")
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
    """The bytes [start, end). Raises `CheckpointError` when they cannot be read."""
    try:
        file.seek(start)
        while start < end:
            if not (block := file.read(min(_BLOCK_BYTES, end - start))):
                raise CheckpointError(f"{file.name}: became shorter while it was read")
            start += len(block)
            yield block
    except OSError as error:
        raise CheckpointError(f"{file.name}: cannot be read: {error.strerror}") from error
