"""Several LoRAs on one model, each with its strength.

In: a model without adapters and opened LoRAs. Out: the model with all of them; by LoRA, which layers are not used.
All updates refer to the original weight: W becomes W + sum of strength * update(W). Plain LoRAs of a layer become one
LoRA of their summed rank, which is the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sonolora.ltx.lora.adapters import LowRankUpdate, linear_shapes, put_back, put_updates, remove_adapters
from sonolora.ltx.lora.lora_file import LoRAFile
from sonolora.ltx.lora.lora_fit import require_any, unused_layers
from sonolora.ltx.lora.weight_update import LORA, SummedUpdates, WeightUpdate
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer

Pairs = Mapping[str, tuple[Tensor, Tensor]]
_NO_PAIRS: Pairs = {}


class LoRAUse(NamedTuple):
    """A LoRA and how strongly it is used."""

    lora: LoRAFile
    strength: float


@dataclass(frozen=True)
class AppliedLoRA:
    """A LoRA on a model: its layers, and by layer why others are not used."""

    layers: Mapping[str, nn.Module]
    unused: Mapping[str, str]


def apply_loras(model: Transformer, uses: Sequence[LoRAUse], own: Pairs = _NO_PAIRS) -> list[dict[str, str]]:
    """Add LoRAs to a model without adapters; returns for each the layers that are not used, with the reason.

    `own`: more updates B A, by layer the pair (A, B). Layers that the model does not have, or has in another shape, are
    unused. Raises `CheckpointError` naming the reasons when no layer of a LoRA can be used, and when one holds NaN.
    """
    shapes = linear_shapes(model)
    unused = [unused_layers(use.lora, shapes) for use in uses]
    for use, reasons in zip(uses, unused, strict=True):
        require_any(use.lora, reasons)
    layers = dict.fromkeys(own)
    for use, reasons in zip(uses, unused, strict=True):
        layers |= dict.fromkeys(layer for layer in use.lora.layers if layer not in reasons)
    put_updates(
        model,
        {
            layer: _update(
                layer,
                [use for use, why in zip(uses, unused, strict=True) if layer in use.lora.layers and layer not in why],
                own.get(layer),
            )
            for layer in layers
        },
    )
    return [{**reasons, **use.lora.skipped} for use, reasons in zip(uses, unused, strict=True)]


def apply_lora(model: Transformer, lora: LoRAFile, strength: float) -> AppliedLoRA:
    """`apply_loras` for a single one."""
    (unused,) = apply_loras(model, [LoRAUse(lora, strength)])
    return AppliedLoRA({name: model.get_submodule(name) for name in lora.layers if name not in unused}, unused)


@contextmanager
def with_loras(model: Transformer, adapters: Adapters, uses: Sequence[LoRAUse]) -> Iterator[None]:
    """Context in which the model has LoRAs beside the adapters that it is trained with, as they are now."""
    if not uses:
        yield
        return
    values = adapters.matrices(adapters.flat.detach())
    own = {name: (values[f"{name}.lora_A"], values[f"{name}.lora_B"]) for name in adapters}
    remove_adapters(model)
    try:
        apply_loras(model, uses, own)
        yield
    finally:
        remove_adapters(model)
        put_back(model, adapters)


def _update(layer: str, uses: Sequence[LoRAUse], own: tuple[Tensor, Tensor] | None) -> LowRankUpdate | SummedUpdates:
    """All updates of a layer as one."""
    if all(use.lora.layers[layer].is_plain_lora for use in uses):
        terms = [LowRankUpdate(*own)] if own is not None else []
        for use in uses:
            terms.append(LowRankUpdate(*use.lora.read_pair(layer), use.strength * use.lora.layers[layer].scale))
        return terms[0] if len(terms) == 1 else _stacked(terms)
    updates = [(use.lora.read(layer), use.strength) for use in uses]
    if own is not None:
        updates.append((WeightUpdate(LORA, {"A": own[0], "B": own[1]}, 1.0), 1.0))
    return SummedUpdates(updates)


def _stacked(terms: Sequence[LowRankUpdate]) -> LowRankUpdate:
    device = terms[0].down.device
    return LowRankUpdate(
        torch.cat([term.down.to(device) for term in terms]),
        torch.cat([term.scale * term.up.to(device) for term in terms], dim=1),
    )
