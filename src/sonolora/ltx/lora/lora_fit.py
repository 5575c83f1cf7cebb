"""Which layers of an adapter file a model can use, and why it cannot use the others.

In: an opened file, and the linear layers of a checkpoint or model. Out: the reason for each layer that is not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from sonolora.core.errors import CheckpointError
from sonolora.ltx.lora.layer_kinds import TEXT, VIDEO, VIDEO_KINDS, layer_kind
from sonolora.ltx.lora.lora_file import LoRAFile
from sonolora.ltx.lora.lora_names import weight_name
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.checkpoint import Checkpoint

Shapes = Mapping[str, tuple[int, ...]]


def linear_layers(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in) by layer of the linear layers in a checkpoint's transformer and text conditioning."""
    layers: dict[str, tuple[int, ...]] = {}
    for tensor, info in checkpoint.tensors.items():
        layer = tensor.removesuffix(".weight").removeprefix(PREFIX)
        if len(info.shape) == 2 and tensor == weight_name(layer):
            layers[layer] = info.shape
    return layers


def unused_layers(lora: LoRAFile, layers: Shapes) -> dict[str, str]:
    """Why a layer of the LoRA cannot be used with these linear layers (out, in), by layer; empty if all can."""
    kinds = {layer_kind(name) for name in layers}
    return {
        name: f"its shape is {update.shape}, in the base {layers[name]}" if name in layers else _why_absent(name, kinds)
        for name, update in lora.layers.items()
        if layers.get(name) != update.shape
    }


def require_any(lora: LoRAFile, unused: Mapping[str, str]) -> None:
    """Raises `CheckpointError` if none of the LoRA's layers can be used, naming the reasons in `unused`."""
    if lora.layers.keys() <= unused.keys():
        reasons = "; ".join(summarise({**unused, **lora.skipped}))
        raise CheckpointError(f"{lora.path}: no layer of this LoRA can be used: {reasons}")


def summarise(reasons: Mapping[str, str]) -> list[str]:
    """Layers and why they are not used, one line per reason: an example and the number of the others."""
    counts = Counter(reasons.values())
    examples = {reason: name for name, reason in reversed(list(reasons.items()))}
    return [f"{examples[reason]}{f' and {n - 1} more' if n > 1 else ''}: {reason}" for reason, n in counts.items()]


def _why_absent(layer: str, present: Collection[str]) -> str:
    kind = layer_kind(layer)
    if kind == TEXT and TEXT not in present:
        return "part of the text conditioning, which only `sonolora merge` updates"
    if kind in VIDEO_KINDS and VIDEO not in present:
        return "part of the video stream, which does not run in this mode"
    return "the base has no such layer"
