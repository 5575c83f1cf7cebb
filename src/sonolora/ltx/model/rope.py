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
    """Factors of a token's own channels and of those they are rotated against, float32 (B, T, H * K); see `rotate`.

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
    cos, sin = (part.view(batch, tokens, heads, 1, -1) for part in (cos, sin))
    # For all channels: operations on whole rows are several times as fast as on the halves of heads.
    return torch.cat([cos, cos], dim=3).flatten(2), torch.cat([-sin, sin], dim=3).flatten(2)


def rotate(x: Tensor, factors: Rotation, heads: int, direction: int = 1, *, out: Tensor | None = None) -> Tensor:
    """Rotate the first half of each head's channels against the second half, forward (1) or back (-1), in float32.

    `x` and the result have shape (B, T, ..., H * K), the factors (B, T, ones, H * K).
    """
    own, other = factors
    swapped = torch.unflatten(x, -1, (heads, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * own, swapped, other, value=direction, out=out)
