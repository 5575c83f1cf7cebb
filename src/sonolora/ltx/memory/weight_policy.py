"""How a frozen transformer is held and run: in which precision, on which side of the bus, compiled or as written.

In: a `WeightPolicy`, and the tensors of a transformer as they are read. Out: the same network with its blocks' weights
quantised, or in the host's memory, tensor by tensor, so that more than that is never there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonolora.ltx.memory.quantised import NEIGHBOURS, QuantisedLinear
from sonolora.ltx.memory.weight_forms import FULL, WEIGHTS

BLOCKS = "transformer_blocks."


@dataclass(frozen=True)
class WeightPolicy:
    """Checked when made; raises `ValueError`. Only `weights` changes what the network computes, beyond rounding."""

    weights: str = FULL  # of the large linear layers in the blocks: one of `WEIGHTS`
    checkpointing: bool = False  # blocks are computed again in the backward pass
    streamed: bool = False  # blocks wait in the host's memory (see `streaming`); they are computed again, too
    compiled: bool = False  # each block runs as what torch.compile makes of it; equal but for rounding

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights {self.weights!r} is not one of {', '.join(WEIGHTS)}")
        if self.compiled and self.streamed:
            raise ValueError("blocks that come and go cannot be compiled")

    @property
    def recomputed(self) -> bool:
        """Whether the backward pass computes every block again."""
        return self.checkpointing or self.streamed


PLAIN = WeightPolicy()


def place_weight(model: nn.Module, name: str, tensor: Tensor, policy: WeightPolicy) -> Tensor | None:
    """Put away a tensor that was read for `model`; returns what is to be loaded in its place, if anything is.

    Outside of the blocks everything stays as it is; within them what is quantised are the weights of linear layers but
    for the gates, which are narrow, and of layers too narrow for groups of nf4.
    """
    if not name.startswith(BLOCKS):
        return tensor
    device = torch.device("cpu") if policy.streamed else tensor.device
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    if policy.weights == FULL or leaf != "weight" or not isinstance(layer, nn.Linear) or not _is_large(path, layer):
        return tensor.to(device)
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, QuantisedLinear(layer, tensor, policy.weights, device))
    return None


def _is_large(path: str, layer: nn.Linear) -> bool:
    return not path.endswith("to_gate_logits") and layer.in_features % NEIGHBOURS == 0
