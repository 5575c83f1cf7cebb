"""Reads adapter files of any trainer: LoRA, LoHa, LoKr, full differences and DoRA.

In: a safetensors file. Out: for each layer, by its published name, what the file adds to its weight (`weight_update`);
the file's metadata. `open_lora` reads the header only, `LoRAFile.read` the factors of one layer.

The scale of an update is alpha / rank if the file has an `.alpha` or PEFT's settings are known (`peft_settings`).
Otherwise it is 1, as the publisher fuses.
What cannot be read (other adapters, biases, layers of other networks) is in `LoRAFile.skipped`, with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import DTYPES, TensorInfo
from sonolora.ltx.lora.lora_names import KNOWN_PREFIXES, is_known_prefix, published_name
from sonolora.ltx.lora.peft_settings import peft_scale, peft_settings
from sonolora.ltx.lora.weight_update import (
    DIFF,
    LOHA,
    LOKR,
    LORA,
    MAGNITUDE,
    WeightUpdate,
    update_rank,
    update_shape,
)
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.checkpoint import Checkpoint

_KEY = re.compile(
    r"(?P<layer>.+?)\.(?P<part>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|diff"
    r"|dora_scale|lora_magnitude_vector|alpha)(?:\.default)?(?:\.weight)?"
)
_FACTORS = {
    "lora_A": "A",
    "lora_down": "A",
    "lora.down": "A",
    "lora_B": "B",
    "lora_up": "B",
    "lora.up": "B",
    "dora_scale": MAGNITUDE,
    "lora_magnitude_vector": MAGNITUDE,
}
_UNSUPPORTED = {
    r"\.(lokr_t[12]|hada_t[12]|lora_mid)\b": "a Tucker decomposition, which is for convolutions",
    r"\.(oft_|boft_)": "an OFT",
    r"\.glora_|\.[ab][12]\.weight$": "a GLoRA",
    r"\.(w_norm|b_norm)$": "an update of a norm",
    r"\.(diff_b|bias)$|\.lora_(B|up)\.bias$": "an update of a bias",
    r"\.(lora_embedding_|lora_E\b|ia3_|vera_lambda)": "an adapter of another kind",
}
_NO_ADAPTER = "not a key of an adapter"
_EXPECTED = "a LoRA has keys *.lora_A/lora_B.weight or *.lora_down/lora_up.weight, and possibly *.alpha"
_FLOATS = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}
_NUMBERS = {name: DTYPES[name] for name in (*_FLOATS, "I64", "I32")}  # an alpha may be an integer


@dataclass(frozen=True)
class LayerUpdate:
    """What a file stores for one layer."""

    kind: str  # LoRA, LoHa, LoKr or full difference
    factors: Mapping[str, TensorInfo]  # by the names of `weight_update`
    scale: float
    shape: tuple[int, int]  # (out, in) of the layer

    @property
    def rank(self) -> int | None:
        """Rank of the factors, if they are of low rank."""
        return update_rank(self.kind, {name: info.shape for name, info in self.factors.items()})

    @property
    def is_dora(self) -> bool:
        """Whether the update also rescales the rows or columns of the weight."""
        return MAGNITUDE in self.factors

    @property
    def is_plain_lora(self) -> bool:
        """Whether the update is scale * B A."""
        return self.kind == LORA and not self.is_dora

    @property
    def parameters(self) -> int:
        """Number of values."""
        return sum(math.prod(info.shape) for info in self.factors.values())


@dataclass(frozen=True)
class LoRAFile:
    """The header of an adapter file."""

    path: Path
    layers: Mapping[str, LayerUpdate]  # by published name, see `lora_names`
    skipped: Mapping[str, str]  # what cannot be read, by its name in the file: the reason
    metadata: Mapping[str, str]
    form: str  # how its keys are named, for display
    warnings: tuple[str, ...] = ()

    def read(self, layer: str, *, finite: bool = True) -> WeightUpdate:
        """The update of a layer, on the CPU. Raises `CheckpointError` if `finite` and it holds NaN or infinity."""
        update = self.layers[layer]
        return WeightUpdate(update.kind, self._factors(layer, finite=finite), update.scale)

    def read_pair(self, layer: str, *, finite: bool = True) -> tuple[Tensor, Tensor]:
        """A (rank, in) and B (out, rank) of a plain LoRA layer, float32 on the CPU; raises as `read`."""
        factors = self._factors(layer, finite=finite)
        return factors["A"], factors["B"]

    def _factors(self, layer: str, *, finite: bool) -> dict[str, Tensor]:
        update = self.layers[layer]
        factors = {name: _read(self.path, info) for name, info in update.factors.items()}
        if finite and not all(factor.isfinite().all() for factor in factors.values()):
            raise CheckpointError(f"{self.path}: holds NaN or infinity for {layer}; it cannot be used")
        if MAGNITUDE in factors:
            factors[MAGNITUDE] = factors[MAGNITUDE].reshape(_magnitude_shape(update.factors[MAGNITUDE], update.shape))
        return factors


def open_lora(path: Path) -> LoRAFile:
    """Read the header of an adapter file.

    Raises `CheckpointError` naming the file and the key: for a file that is not a LoRA or of which nothing can be read,
    an incomplete layer, shapes that do not fit together, and a layer that occurs twice.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: specify the LoRA in it, such as {path / 'lora.safetensors'}")
    checkpoint = Checkpoint.open(path)
    groups: dict[str, dict[str, str]] = {}  # name of the layer in the file -> part -> key
    skipped: dict[str, str] = {}
    for key in checkpoint.tensors:
        if (match := _KEY.fullmatch(key)) is not None:
            groups.setdefault(match["layer"], {})[match["part"]] = key
        else:
            skipped[key] = next(
                (kind for pattern, kind in _UNSUPPORTED.items() if re.search(pattern, key)), _NO_ADAPTER
            )
    # Some activations have a parameter called alpha.
    if not any(parts.keys() - {"alpha"} for parts in groups.values()):
        raise CheckpointError(f"{path}: {_describe_other(checkpoint, skipped)}")
    settings, warnings = peft_settings(checkpoint, groups)
    layers: dict[str, LayerUpdate] = {}
    forms: Counter[str] = Counter()
    foreign: Counter[str] = Counter()
    for group, parts in groups.items():
        # A factor of an unsupported kind changes what the others mean.
        tucker = next((key for key, kind in skipped.items() if key.startswith(f"{group}.") and "Tucker" in kind), None)
        if tucker is not None:
            skipped[group] = skipped[tucker]
            continue
        kind, style, factors = _classify(checkpoint, group, parts)
        if (found := published_name(group)) is None:
            skipped[group] = "not a layer of LTX-2.3"
            continue
        name, prefix = found
        if name in layers:
            raise CheckpointError(f"{path}: {name} occurs twice, the second time as {group}")
        layers[name] = _layer_update(checkpoint, group.removeprefix(prefix), kind, parts, factors, settings)
        if not is_known_prefix(prefix):
            foreign[prefix] += 1
        with_alpha = " with .alpha" if "alpha" in parts else ""
        forms[f"{prefix}*.{style}{' with DoRA' if MAGNITUDE in factors else ''}{with_alpha}"] += 1
    warnings += [
        f"{count} of its layers have names that begin with {prefix}, which no trainer of LTX-2.3 is known to write: "
        "the file may be for another model. They are used as layers of LTX-2.3; expected "
        f"{', '.join(KNOWN_PREFIXES)} or no prefix"
        for prefix, count in foreign.items()
    ]
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in checkpoint.metadata.items()
    }
    return LoRAFile(path, layers, skipped, metadata, " and ".join(forms), tuple(warnings))


def _describe_other(checkpoint: Checkpoint, skipped: Mapping[str, str]) -> str:
    """What a file is that has no readable adapter."""
    if any(key.startswith(PREFIX) for key in checkpoint.tensors):
        return "this is a model checkpoint, not a LoRA; specify a base with --base"
    if kinds := {kind: key for key, kind in skipped.items() if kind != _NO_ADAPTER}:
        return "; ".join(f"{key} belongs to {kind}, which Sonolora does not read" for kind, key in kinds.items())
    return f"not a LoRA: it holds {min(checkpoint.tensors, default='no tensor')}; {_EXPECTED}"


def _classify(checkpoint: Checkpoint, group: str, parts: Mapping[str, str]) -> tuple[str, str, dict[str, TensorInfo]]:
    """The kind of a layer's adapter, its name in the file, and its factors."""
    path = checkpoint.path
    names = sorted(parts.keys() - {"alpha", "dora_scale", "lora_magnitude_vector"})
    if not names:
        key = next(iter(parts.values()))
        raise CheckpointError(f"{path}: {key} has no factors beside it; {_EXPECTED}")
    prefix = {name.split("_")[0].split(".")[0] for name in names}
    if len(prefix) > 1:
        raise CheckpointError(f"{path}: {group} mixes {' and '.join(names)}; expected one kind of adapter")
    kind = {"lora": LORA, "hada": LOHA, "lokr": LOKR, "diff": DIFF}[prefix.pop()]
    factors = {}
    for part, key in parts.items():
        if part == "alpha":
            continue
        name = _FACTORS.get(part, part.partition("_")[2] or part)
        if name in factors:
            raise CheckpointError(f"{path}: {group} has both {' and '.join(names)}; expected one pair")
        _require_readable(checkpoint, key, _FLOATS)
        factors[name] = checkpoint.tensors[key]
    for name in _missing(kind, factors):
        raise CheckpointError(f"{path}: {parts[names[0]]} has no {name} beside it; the layer is incomplete")
    style = "/".join(sorted(names)) if kind == LORA else {LOHA: "hada_*", LOKR: "lokr_*", DIFF: "diff"}[kind]
    return kind, style, factors


def _missing(kind: str, factors: Collection[str]) -> Iterator[str]:
    """Factors that an adapter of this kind lacks."""
    if kind == LORA:
        yield from (f"lora_{name}" for name in "AB" if name not in factors)
        return
    for side in ("w1", "w2") if kind in (LOHA, LOKR) else ():
        if kind == LOHA or side not in factors:
            yield from (f"{side}_{half}" for half in "ab" if f"{side}_{half}" not in factors)


def _layer_update(
    checkpoint: Checkpoint,
    layer: str,
    kind: str,
    parts: Mapping[str, str],
    factors: dict[str, TensorInfo],
    settings: Mapping[str, Any],
) -> LayerUpdate:
    """Raises `CheckpointError` for shapes that do not fit together and for a scale that is not finite."""
    path, shapes = checkpoint.path, {name: info.shape for name, info in factors.items()}
    listed = ", ".join(f"{parts_key} {checkpoint.tensors[key].shape}" for parts_key, key in sorted(parts.items()))
    try:
        if any(len(shape) != 2 or 0 in shape for name, shape in shapes.items() if name != MAGNITUDE):
            raise ValueError("expected matrices")
        shape = update_shape(kind, shapes)
        if MAGNITUDE in factors:
            _magnitude_shape(factors[MAGNITUDE], shape)
    except ValueError as error:
        raise CheckpointError(f"{path}: the shapes of {layer} do not fit together: {listed} ({error})") from error
    rank = update_rank(kind, shapes)
    if "alpha" in parts:
        alpha = _alpha(checkpoint, parts["alpha"])
        scale = alpha / rank if rank is not None else 1.0
    else:
        scale = peft_scale(path, settings, layer, rank)
    if not math.isfinite(scale):
        raise CheckpointError(f"{path}: the alpha of {layer} gives a scale of {scale}; expected a finite one")
    return LayerUpdate(kind, factors, scale, shape)


def _magnitude_shape(info: TensorInfo, shape: tuple[int, int]) -> tuple[int, int]:
    """(out, 1) for the magnitudes of rows, (1, in) for those of columns. Raises `ValueError` for another shape."""
    out, inputs = shape
    if info.shape in ((out,), (out, 1)):
        return out, 1
    if info.shape == (1, inputs):
        return 1, inputs
    raise ValueError(f"a magnitude has shape {info.shape}")


def _alpha(checkpoint: Checkpoint, key: str) -> float:
    info = checkpoint.tensors[key]
    if math.prod(info.shape) != 1:
        raise CheckpointError(f"{checkpoint.path}: {key} has shape {info.shape}; expected one number")
    _require_readable(checkpoint, key, _NUMBERS)
    return _read(checkpoint.path, info).item()


def _require_readable(checkpoint: Checkpoint, key: str, dtypes: Mapping[str, torch.dtype]) -> None:
    info = checkpoint.tensors[key]
    if info.dtype not in dtypes:
        raise CheckpointError(f"{checkpoint.path}: {key} is stored as {info.dtype}; supported are {', '.join(dtypes)}")
    if (size := math.prod(info.shape) * dtypes[info.dtype].itemsize) != info.end - info.start:
        raise CheckpointError(f"{checkpoint.path}: {key} has {info.end - info.start:,} bytes; its shape needs {size:,}")


def _read(path: Path, info: TensorInfo) -> Tensor:
    try:
        with path.open("rb") as file:
            file.seek(info.start)
            data = bytearray(file.read(info.end - info.start))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) < info.end - info.start:
        raise CheckpointError(f"{path}: became shorter while it was read")
    return torch.frombuffer(data, dtype=_NUMBERS[info.dtype]).view(info.shape).float()
