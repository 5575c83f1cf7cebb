"""How much a LoRA changes each layer of a base: the norm of the update relative to the norm of the weight.

In: an opened LoRA and a checkpoint. Out: a `Strength` for each layer that fits the base. Norms are Frobenius norms. Of
the base only the changed layers are read, one at a time. For a plain LoRA, B A is not computed: its norm follows from
two matrices of rank x rank, ||B A||^2 = trace((B^T B) (A A^T)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolora.ltx.lora.lora_file import LoRAFile
from sonolora.ltx.lora.lora_fit import linear_layers, unused_layers
from sonolora.ltx.lora.lora_names import weight_name
from sonolora.ltx.weights.checkpoint import Checkpoint, read_tensors

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Strength:
    """Norms of one layer, or of several combined."""

    change: float  # of the update; NaN where the LoRA holds NaN or infinity
    weight: float  # of the base's weight

    @property
    def relative(self) -> float | None:
        """The change relative to the weight; None where the weight is zero."""
        return self.change / self.weight if self.weight else None


def strengths(lora: LoRAFile, checkpoint: Checkpoint) -> dict[str, Strength]:
    """By layer, in the order of the LoRA; without the layers that do not fit the base."""
    unused = unused_layers(lora, linear_layers(checkpoint))
    names = {weight_name(layer): layer for layer in lora.layers if layer not in unused}
    measured = {}
    # Other dtypes lose nothing that matters for a norm.
    for name, weight in read_tensors(checkpoint, names, device=_CPU, dtype=torch.bfloat16):
        measured[names[name]] = Strength(_change(lora, names[name], weight), _norm(weight))
    return {layer: measured[layer] for layer in lora.layers if layer in measured}


def combine(parts: Iterable[Strength]) -> Strength:
    """The strength of several layers as one: norms add as squares."""
    norms = [(part.change, part.weight) for part in parts]
    return Strength(math.hypot(*(change for change, _ in norms)), math.hypot(*(weight for _, weight in norms)))


def _change(lora: LoRAFile, layer: str, weight: Tensor) -> float:
    update = lora.layers[layer]
    if not update.is_plain_lora:
        change = lora.read(layer, finite=False)(weight)
        return _norm(change) if change.isfinite().all() else math.nan
    down, up = (half.double() for half in lora.read_pair(layer, finite=False))
    if not (down.isfinite().all() and up.isfinite().all()):
        return math.nan
    squared = ((up.T @ up) * (down @ down.T)).sum()
    return abs(update.scale) * math.sqrt(max(float(squared), 0.0))


def _norm(matrix: Tensor) -> float:
    # By rows: the whole matrix in float64 would take four times its size.
    return math.hypot(*(torch.linalg.vector_norm(rows, dtype=torch.float64) for rows in torch.split(matrix, 512)))
