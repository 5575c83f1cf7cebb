"""Rotary position embedding (split type) over continuous positions.

In: positions in seconds (and pixels). Out: cosines and sines, and rotated queries and keys.
B batch, T tokens, X position axes, H heads, K channels of a head, F = K / 2 its frequencies.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sonolora.ltx.memory.device_constants import on_device

Rotation = tuple[Tensor, Tensor]


def frequencies(count: int, theta: float, *, float64: bool) -> Tensor:
    """Angular frequencies pi/2 * theta^(k / (count - 1)), float32 (count,).

    Computed in the precision given by the checkpoint: at the highest frequency, rounding the grid shifts the angle by
    far more than the resolution of float32.
    """
    dtype = np.float64 if float64 else np.float32
    exponents = np.linspace(0.0, 1.0, count, dtype=dtype)
    return torch.from_numpy((np.power(dtype(theta), exponents) * dtype(math.pi / 2)).astype(np.float32))


def rotation(
    positions_BXT: Tensor,
    max_positions: tuple[float, ...],
    width: int,
    heads: int,
    theta: float,
    *,
    float64: bool,
) -> Rotation:
    """Cosines and sines (B, T, H, F), float32, F = width / heads / 2.

    Positions are mapped from [0, max] to [-1, 1]. Frequencies are laid out with the axis changing fastest; a remainder
    that does not divide among the axes is padded in front with identity entries. Each head has its own frequencies.
    """
    batch, axes, tokens = positions_BXT.shape
    count = width // 2 // axes
    device = positions_BXT.device
    grid = on_device(frequencies, count, theta, device=device, float64=float64)
    scale = on_device(torch.tensor, max_positions[:axes], device=device)
    unit_BTX = (positions_BXT.float() / scale[:, None] * 2 - 1).transpose(1, 2)
    angles = (unit_BTX[:, :, None, :] * grid[:, None]).flatten(2)  # (B, T, count * axes)
    cos, sin = angles.cos(), angles.sin()
    rest = width // 2 - count * axes
    if rest:
        cos = torch.cat([cos.new_ones(batch, tokens, rest), cos], dim=-1)
        sin = torch.cat([sin.new_zeros(batch, tokens, rest), sin], dim=-1)
    by_head = (batch, tokens, heads, -1)
    return cos.view(by_head), sin.view(by_head)
