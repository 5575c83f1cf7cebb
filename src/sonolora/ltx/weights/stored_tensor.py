"""Tensors as other programs store them: 8-bit floats with a scale, a model in several files, GGUF.

In: the tensor table of a file. Out: the table of the weights in it, where a scale is part of its weight.

    X.weight        float8_e4m3fn or float8_e5m2 codes; the weight is code * scale
    X.weight_scale  or X.scale_weight: one number, or one for each row; without it the scale is 1
    X.input_scale   or X.scale_input, X.comfy_quant, scaled_fp8: for 8-bit arithmetic, not needed to read the weight

Source of the names: the published fp8 checkpoint and ComfyUI's scaled checkpoints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sonolora.core.tensor_file import TensorInfo

FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("weight_scale", "scale_weight")
_UNUSED = ("input_scale", "scale_input", "comfy_quant")
_MARKER = "scaled_fp8"
_SCALE_DTYPES = ("F32", "BF16", "F16")
PUBLISHED_PRECISION = "bfloat16"
_WORDS = {"BF16": PUBLISHED_PRECISION, "F16": "float16", "F32": "float32", "F8_E4M3": "float8", "F8_E5M2": "float8"}


@dataclass(frozen=True)
class StoredTensor(TensorInfo):
    """A tensor whose file is not that of the checkpoint, or whose values are not the weights themselves."""

    file: Path | None = None  # None: the checkpoint's own
    scale: TensorInfo | None = None  # the values are codes, to be multiplied by it
    scale_name: str = ""  # in the file
    widened: bool = False  # stored in float32, published in bfloat16
    added: float = 0.0  # what was added to the weight


def in_file(info: TensorInfo, file: Path) -> StoredTensor:
    """The same tensor, with the file that holds it."""
    if not isinstance(info, StoredTensor):
        return StoredTensor(info.dtype, info.shape, info.start, info.end, file)
    return replace(info, file=file, scale=in_file(info.scale, file) if info.scale else None)


def file_of(info: TensorInfo, default: Path) -> Path:
    """The file that holds a tensor of the checkpoint at `default`."""
    return (info.file or default) if isinstance(info, StoredTensor) else default


def files_of(tensors: Mapping[str, TensorInfo], default: Path) -> list[Path]:
    """The files of a checkpoint at `default`, in order."""
    return sorted({file_of(info, default) for info in tensors.values()})


def added_to(info: TensorInfo) -> float:
    """What the file's values are larger by than the weights."""
    return info.added if isinstance(info, StoredTensor) else 0.0


def loaded_dtype(info: TensorInfo, dtype: torch.dtype) -> torch.dtype:
    """The dtype a tensor is loaded in: what was published in float32 stays float32."""
    widened = isinstance(info, StoredTensor) and info.widened
    return torch.float32 if added_to(info) or (info.dtype == "F32" and not widened) else dtype


def scale_of(info: TensorInfo) -> TensorInfo | None:
    """The scale of 8-bit codes, if there is one."""
    return info.scale if isinstance(info, StoredTensor) else None


def row_of(info: TensorInfo, index: int) -> TensorInfo:
    """One row of a matrix, as a matrix."""
    size = (info.end - info.start) // info.shape[0]
    start = info.start + index * size
    row = replace(info, shape=(1, *info.shape[1:]), start=start, end=start + size)
    if isinstance(row, StoredTensor) and row.scale is not None and math.prod(row.scale.shape) > 1:
        row = replace(row, scale=row_of(replace(row.scale, shape=(info.shape[0], 1)), index))
    return row


def with_scale_names(tensors: Mapping[str, TensorInfo], names: set[str]) -> set[str]:
    """These names and, as they are in the file, those of their scales."""
    infos = (tensors[name] for name in names)
    return names | {info.scale_name for info in infos if isinstance(info, StoredTensor) and info.scale}


def fold_scales(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The table with each scale folded into its weight. Weights in other formats keep their extra tensors."""
    folded = dict(tensors)
    for name, info in tensors.items():
        layer, _, leaf = name.rpartition(".")
        weight = tensors.get(f"{layer}.weight")
        if name == _MARKER or (leaf in _UNUSED and weight is not None and weight.dtype in FLOAT8):
            del folded[name]
        elif leaf in _SCALES and weight is not None and weight.dtype in FLOAT8 and _is_scale(info, weight):
            del folded[name]
            folded[f"{layer}.weight"] = StoredTensor(
                weight.dtype, weight.shape, weight.start, weight.end, scale=info, scale_name=name
            )
    return folded


def stored_precision(tensors: Mapping[str, TensorInfo]) -> str:
    """How most matrices in the transformer's blocks are stored, in words."""
    blocks = {name: info for name, info in tensors.items() if "transformer_blocks." in name and len(info.shape) == 2}
    return tensor_precision(blocks)


def tensor_precision(tensors: Mapping[str, TensorInfo]) -> str:
    """How most values of these tensors are stored, in words."""
    counts: Counter[str] = Counter()
    for info in tensors.values():
        scaled = "" if info.dtype not in FLOAT8 else " with scales" if scale_of(info) else " without scales"
        counts[_WORDS.get(info.dtype, info.dtype) + scaled] += math.prod(info.shape)
    return counts.most_common(1)[0][0] if counts else "unknown"


def precision_note(precision: str) -> str | None:
    """What training on weights of this precision means; None for the published one."""
    if not precision.startswith(("float8", "GGUF")):
        return None
    lost = "a LoRA trained on them compensates for a part of the rounding error, and suits these files best"
    if precision.endswith("without scales"):
        return f"the base's weights are stored as {precision}: what small weights lost is gone for good; {lost}"
    return f"the base's weights are stored as {precision}: {lost}"


def _is_scale(info: TensorInfo, weight: TensorInfo) -> bool:
    rows = weight.shape[:1]
    return info.dtype in _SCALE_DTYPES and info.shape in ((), (1,), (1, 1), rows, (*rows, 1))
