"""How the frozen transformer is stored and run: precision, block offload, gradient checkpointing, compilation.

In: a `WeightPolicy`, and the transformer's tensors as they are read. Out: the same network with block weights quantised
or in host memory. This happens tensor by tensor, so the full-size model never exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonolora.ltx.memory.quantised import GROUP_SIZE, QuantisedLinear, quantise
from sonolora.ltx.memory.weight_forms import FLOAT8, FULL, WEIGHTS

BLOCKS = "transformer_blocks."
TABLE = "scale_shift_table"  # in the name of modulation tables, which are small and needed before all blocks


@dataclass(frozen=True)
class WeightPolicy:
    """Validated on construction (`ValueError`). Only `weights` changes the network's output, apart from rounding."""

    weights: str = FULL  # format of the large linear layers in the blocks: one of `WEIGHTS`
    gradient_checkpointing: bool = False  # of all blocks
    checkpointed_blocks: int = 0  # of the first ones
    offloaded: bool = False  # blocks are in host memory (see `block_offload`); implies gradient checkpointing
    compiled: bool = False  # each block runs under torch.compile; equal up to rounding

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights {self.weights!r} is not one of {', '.join(WEIGHTS)}")
        if self.compiled and self.offloaded:
            raise ValueError("offloaded blocks cannot be compiled")

    def recomputed(self, layers: int) -> int:
        """How many of the blocks, from the first, the backward pass recomputes; with block offload all.

        The first ones: when the backward pass comes to them, what the others kept is free again.
        """
        return layers if self.gradient_checkpointing or self.offloaded else min(self.checkpointed_blocks, layers)


PLAIN = WeightPolicy()


def place_weight(
    model: nn.Module,
    name: str,
    tensor: Tensor,
    policy: WeightPolicy,
    *,
    dtype: torch.dtype | None = None,
    scales: Tensor | None = None,
) -> Tensor | None:
    """Store a tensor that was read for `model`. Returns the tensor to load, or None if a quantised layer took it.

    With `scales`, `tensor` holds the codes of an 8-bit weight (see `keeps_codes`) that computes in `dtype`.
    """
    if not name.startswith(BLOCKS):
        return tensor
    device = torch.device("cpu") if policy.offloaded and TABLE not in name else tensor.device
    if not quantises(model, name, policy):
        return tensor.to(device)
    path, _, _ = name.rpartition(".")
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    codes, scales = (tensor, scales) if scales is not None else quantise(tensor, policy.weights)
    quantised = QuantisedLinear(layer, codes, scales, dtype=dtype or tensor.dtype, device=device)
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, quantised)
    return None


def quantises(model: nn.Module, name: str, policy: WeightPolicy) -> bool:
    """Whether a tensor is stored quantised: the weights of linear layers in the blocks.

    Not the gates, which are small, nor layers too narrow for a group of nf4.
    """
    path, _, leaf = name.rpartition(".")
    if policy.weights == FULL or leaf != "weight" or not name.startswith(BLOCKS) or path.endswith("to_gate_logits"):
        return False
    layer = model.get_submodule(path)
    return isinstance(layer, nn.Linear) and layer.in_features % GROUP_SIZE == 0


def keeps_codes(model: nn.Module, name: str, policy: WeightPolicy) -> bool:
    """Whether an 8-bit weight of the file is kept as it is, without another rounding."""
    return policy.weights == FLOAT8 and quantises(model, name, policy)
