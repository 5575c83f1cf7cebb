"""A linear layer with a low-rank adapter, and several such layers at once on the same input.

An adapted layer computes W x + b + scale * B (A x), A (rank, in), B (out, rank).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank addition; A and B are float32 whatever the base is."""

    def __init__(self, base: nn.Linear, rank: int, device: torch.device) -> None:
        super().__init__()
        self.base = base
        self.scale = 1.0
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    @property
    def weight(self) -> Tensor:
        """Of the frozen layer, which the network asks for its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, F.linear(x, self.lora_A.to(x.dtype)))

    def add(self, x: Tensor, low: Tensor) -> Tensor:
        """The layer's output for `x`, of which A x is there already as `low`."""
        out: Tensor = self.base(x)
        # One operation scales, multiplies and adds: nothing as large as the output is made in between.
        added = torch.addmm(out.flatten(0, -2), low.flatten(0, -2), self.lora_B.to(x.dtype).t(), alpha=self.scale)
        return added.view(out.shape)


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """What each of the layers makes of the same `x`.

    The adapters' narrow products with it are one product, forward and backward, where several are adapted.
    """
    adapted = [layer for layer in layers if isinstance(layer, LoRALinear)]
    if len(adapted) < 2:
        return tuple(layer(x) for layer in layers)
    stacked = torch.cat([layer.lora_A for layer in adapted]).to(x.dtype)
    lows = iter(torch.split(F.linear(x, stacked), [len(layer.lora_A) for layer in adapted], dim=-1))
    return tuple(layer.add(x, next(lows)) if isinstance(layer, LoRALinear) else layer(x) for layer in layers)
