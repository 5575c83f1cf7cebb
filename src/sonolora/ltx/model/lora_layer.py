"""Linear layers with an adapter, and several of them applied to one input.

A LoRA layer computes W x + b + scale * B (A x), A (rank, in), B (out, rank).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update; A and B are float32 whatever the dtype of the base."""

    def __init__(self, base: nn.Linear, rank: int, device: torch.device) -> None:
        super().__init__()
        self.base = base
        self.scale = 1.0
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight; the network reads its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.add_update(x, F.linear(x, self.lora_A.to(x.dtype)))

    def add_update(self, x: Tensor, down: Tensor) -> Tensor:
        """The layer's output for `x`, given `down` = A x."""
        out: Tensor = self.base(x)
        # addmm scales, multiplies and adds without an intermediate as large as the output.
        added = torch.addmm(out.flatten(0, -2), down.flatten(0, -2), self.lora_B.to(x.dtype).t(), alpha=self.scale)
        return added.view(out.shape)


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """The output of each layer for the same `x`.

    If several layers are adapted, their A matrices are stacked: one narrow product in the forward and backward pass.
    """
    adapted = [layer for layer in layers if isinstance(layer, LoRALinear)]
    if len(adapted) < 2:
        return tuple(layer(x) for layer in layers)
    stacked = torch.cat([layer.lora_A for layer in adapted]).to(x.dtype)
    downs = iter(torch.split(F.linear(x, stacked), [len(layer.lora_A) for layer in adapted], dim=-1))
    return tuple(layer.add_update(x, next(downs)) if isinstance(layer, LoRALinear) else layer(x) for layer in layers)


class UpdatedLinear(nn.Module):
    """A frozen linear layer with W + update(W) as its weight, which is computed at every call.

    For adapters that are not of low rank: no second full-size weight is kept, and the base may be quantised.
    """

    def __init__(self, base: nn.Linear, update: nn.Module) -> None:
        super().__init__()
        self.base, self.update = base, update

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight; the network reads its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.update(self.base.weight)
        added: Tensor = self.base(x) + F.linear(x, update.to(x.dtype))
        return added
