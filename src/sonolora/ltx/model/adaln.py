"""Adaptive layer norm: computes modulation vectors from timesteps.

B batch, T tokens, D width. Source: the published model, reimplemented from its equations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SINUSOID_CHANNELS = 256


class AdaLayerNorm(nn.Module):
    """Timestep -> sinusoid -> MLP -> `rows` modulation vectors of the stream's width."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.emb = _Embedding(width)
        self.linear = nn.Linear(width, rows * width)
        self.rows = rows

    def forward(self, timestep_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Modulations (B, T, rows, D) and the embedded timestep (B, T, D)."""
        embedded = self.emb(_sinusoid(timestep_BT).to(self.linear.weight.dtype))
        return self.linear(F.silu(embedded)).unflatten(-1, (self.rows, -1)), embedded


class _Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = _TimestepMLP(width)

    def forward(self, sinusoid: Tensor) -> Tensor:
        return self.timestep_embedder(sinusoid)  # type: ignore[no-any-return]


class _TimestepMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_SINUSOID_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))  # type: ignore[no-any-return]


def _sinusoid(timestep: Tensor) -> Tensor:
    half = _SINUSOID_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[..., None] * torch.exp(-math.log(10000.0) / half * steps)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
