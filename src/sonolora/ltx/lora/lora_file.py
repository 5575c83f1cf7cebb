"""LoRA files, whoever made them, read as what they do to a layer: its weight W becomes W + scale * B A.

In: a safetensors file. Out: by a layer's published name A (rank, in), B (out, rank) and the scale; and what the file
says of itself. First only the header is read, later the matrices of a layer when they are asked for.

A is `.lora_A.weight` or `.lora_down.weight`, B is `.lora_B.weight` or `.lora_up.weight`. The scale is 1, as the
publisher fuses, unless there is an `.alpha` (then alpha / rank) or diffusers wrote PEFT's settings into the header
with an alpha that is not the rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import DTYPES, TensorInfo
from sonolora.ltx.lora.lora_names import published_name
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.checkpoint import Checkpoint

PEFT_SETTINGS = "lora_adapter_metadata"  # diffusers' name for them in the header
_KEY = re.compile(r"(?P<layer>.+)\.(?:(?P<half>lora_A|lora_B|lora_down|lora_up)\.weight|alpha)")
_STYLES = (("lora_A", "lora_B"), ("lora_down", "lora_up"))
_PARTNERS = {half: other for style in _STYLES for half, other in (style, style[::-1])}
_OTHER_ADAPTERS = {
    "dora_scale": "is of a DoRA, which also changes the size of the weights",
    "lora_magnitude_vector": "is of a DoRA, which also changes the size of the weights",
    "lokr_": "is of a LoKr, another kind of adapter",
    "hada_": "is of a LoHa, another kind of adapter",
    "oft_": "is of an OFT, another kind of adapter",
    ".diff": "is a whole difference of weights, not of low rank",
    ".bias": "changes a bias, not a weight",
    ".default.weight": "is of PEFT's memory, not of its file: save it with `save_pretrained`",
}
_WANTED = "a LoRA holds *.lora_A/lora_B.weight or *.lora_down/lora_up.weight, and perhaps *.alpha"
_FLOATS = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}
_NUMBERS = {name: DTYPES[name] for name in (*_FLOATS, "I64", "I32")}  # an alpha may be whole
_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """What a file holds for one layer: where A (rank, in) and B (out, rank) lie in it, and the scale of B A."""

    down: TensorInfo
    up: TensorInfo
    scale: float

    @property
    def rank(self) -> int:
        """The side that A and B have in common."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the layer that it is for."""
        return self.up.shape[0], self.down.shape[1]


@dataclass(frozen=True)
class LoRAFile:
    """An opened LoRA file."""

    path: Path
    pairs: Mapping[str, Pair]  # by the published name of the layer, without the transformer's prefix
    metadata: Mapping[str, str]
    form: str  # how it names what it holds, for people

    def read(self, layer: str, *, finite: bool = True) -> tuple[Tensor, Tensor]:
        """A and B of a layer, float32 on the CPU. Raises `CheckpointError` if `finite` and they are not."""
        pair = self.pairs[layer]
        down, up = _read(self.path, pair.down), _read(self.path, pair.up)
        if finite and not (down.isfinite().all() and up.isfinite().all()):
            raise CheckpointError(f"{self.path}: holds NaN or infinity for {layer}; it cannot be used")
        return down, up


def open_lora(path: Path) -> LoRAFile:
    """Read the header of a LoRA file.

    Raises `CheckpointError` naming the file, the key and what was expected: for a file that is no LoRA, a key of
    another kind, a half without its partner, shapes that do not go together, and a layer that is there twice.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the LoRA in it, such as {path / 'lora.safetensors'}")
    checkpoint = Checkpoint.open(path)
    found: dict[str, dict[str, str]] = {}  # layer as the file calls it -> half or "alpha" -> key
    strange = []
    for key in checkpoint.tensors:
        if (match := _KEY.fullmatch(key)) is None:
            strange.append(key)
        else:
            found.setdefault(match["layer"], {})[match["half"] or "alpha"] = key
    if not any(keys.keys() - {"alpha"} for keys in found.values()):  # some activations have a parameter called alpha
        raise CheckpointError(f"{path}: {_what_else(checkpoint)}")
    if strange:
        key = min(strange)
        kind = next((f", which {kind}" for part, kind in _OTHER_ADAPTERS.items() if part in key), "")
        raise CheckpointError(f"{path}: unknown key {key}{kind}; {_WANTED}")
    peft = _peft_settings(checkpoint)
    pairs: dict[str, Pair] = {}
    forms: dict[str, None] = {}
    for layer, keys in found.items():
        name, prefix = published_name(layer)
        if name in pairs:
            raise CheckpointError(f"{path}: changes {name} twice, the second time as {layer}; expected one pair")
        style, down, up = _halves(checkpoint, keys)
        alpha = _alpha(checkpoint, keys["alpha"]) if "alpha" in keys else None
        rank = down.shape[0]
        scale = _peft_scale(path, peft, layer.removeprefix(prefix), rank) if alpha is None else alpha / rank
        if not math.isfinite(scale):
            raise CheckpointError(f"{path}: the alpha of {layer} makes a scale of {scale}; expected a finite one")
        pairs[name] = Pair(down, up, scale)
        forms[f"{prefix}*.{style}{'' if alpha is None else ' with .alpha'}"] = None
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in checkpoint.metadata.items()
    }
    return LoRAFile(path, pairs, metadata, " and ".join(forms))


def linear_layers(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in) by name of the linear layers of a checkpoint's transformer and text connectors."""
    return {
        name.removeprefix(PREFIX).removesuffix(".weight"): info.shape
        for name, info in checkpoint.tensors.items()
        if name.startswith(PREFIX) and name.endswith(".weight") and len(info.shape) == 2
    }


def misfits(lora: LoRAFile, layers: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """By layer why it does not fit a base whose linear layers have these shapes (out, in); empty when all do."""
    return {
        name: f"made for a layer of shape {pair.shape}, the base wants {layers[name]}"
        if name in layers
        else "the base has no such layer"
        for name, pair in lora.pairs.items()
        if layers.get(name) != pair.shape
    }


def require_fit(lora: LoRAFile, layers: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `CheckpointError` naming what of a LoRA does not fit these linear layers."""
    if faults := misfits(lora, layers):
        shown = "; ".join(f"{name}: {fault}" for name, fault in list(faults.items())[:_SHOWN])
        more = "; ..." if len(faults) > _SHOWN else ""
        raise CheckpointError(
            f"{lora.path}: made for another base: {len(faults)} of its {len(lora.pairs)} layers do not fit: "
            f"{shown}{more}"
        )


def _what_else(checkpoint: Checkpoint) -> str:
    """What a file is that holds no half of a LoRA."""
    if any(key.startswith(PREFIX) for key in checkpoint.tensors):
        return "this is a model checkpoint, not a LoRA; a base is given with --base"
    return f"not a LoRA: it holds {min(checkpoint.tensors, default='no tensor')}; {_WANTED}"


def _halves(checkpoint: Checkpoint, keys: Mapping[str, str]) -> tuple[str, TensorInfo, TensorInfo]:
    """The style of the names, A and B."""
    path = checkpoint.path
    halves = sorted(keys.keys() - {"alpha"})
    if not halves:
        raise CheckpointError(f"{path}: {keys['alpha']} stands alone; expected the two halves of a LoRA beside it")
    if len(halves) == 1:
        key, other = keys[halves[0]], _PARTNERS[halves[0]]
        raise CheckpointError(f"{path}: {key} lacks its other half; expected {key.replace(halves[0], other)} beside it")
    style = next((style for style in _STYLES if set(style) == set(halves)), None)
    if style is None:
        raise CheckpointError(f"{path}: {keys[halves[0]]} goes with {' and '.join(halves[1:])}; expected one pair")
    for half in style:
        info = checkpoint.tensors[keys[half]]
        if len(info.shape) != 2 or 0 in info.shape:
            raise CheckpointError(f"{path}: {keys[half]} is of shape {info.shape}; expected a matrix")
        _require_readable(checkpoint, keys[half], _FLOATS)
    down, up = (checkpoint.tensors[keys[half]] for half in style)
    if down.shape[0] != up.shape[1]:
        raise CheckpointError(
            f"{path}: {keys[style[0]]} is of rank {down.shape[0]} {down.shape}, {style[1]} of rank {up.shape[1]} "
            f"{up.shape}; expected (rank, in) and (out, rank)"
        )
    return "/".join(style), down, up


def _alpha(checkpoint: Checkpoint, key: str) -> float:
    info = checkpoint.tensors[key]
    if math.prod(info.shape) != 1:
        raise CheckpointError(f"{checkpoint.path}: {key} is of shape {info.shape}; expected one number")
    _require_readable(checkpoint, key, _NUMBERS)
    return _read(checkpoint.path, info).item()


def _require_readable(checkpoint: Checkpoint, key: str, dtypes: Mapping[str, torch.dtype]) -> None:
    info = checkpoint.tensors[key]
    if info.dtype not in dtypes:
        raise CheckpointError(f"{checkpoint.path}: {key} is stored as {info.dtype}; readable are {', '.join(dtypes)}")
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


def _peft_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Those of the transformer, without the prefix by which diffusers tells them from other networks' settings."""
    said = checkpoint.metadata.get(PEFT_SETTINGS)
    settings = said if isinstance(said, dict) else {}
    return {key.removeprefix("transformer."): value for key, value in settings.items()}


def _peft_scale(path: Path, settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """The scale that PEFT gives a layer, named as in the file without prefix: with its own alpha, if a pattern fits."""
    try:
        patterns = (settings.get("alpha_pattern") or {}).items()
        own = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", layer))
        alpha = float(next(own, settings.get("lora_alpha", rank)))
    except (re.error, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header's {PEFT_SETTINGS} has no alpha that can be read") from error
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
