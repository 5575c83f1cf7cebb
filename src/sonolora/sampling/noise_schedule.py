"""The published schedules of noise levels for sampling.

s runs linearly from 1 to 0; sigma = e^m / (e^m + 1/s - 1) with the shift m = 2.05; then 1 - sigma is stretched so that
the last sigma before 0 is 0.1. Source: the published scheduler at its default of 4,096 tokens, which every published
pipeline uses whatever the length of the sound. A distilled model has a list of its own, for which it was trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHIFT = 2.05
TERMINAL = 0.1
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
DISTILLED_STEPS = len(DISTILLED_SIGMAS) - 1


def sampling_sigmas(steps: int) -> Tensor:
    """(steps + 1,) float32 sigmas, falling from 1 to 0. Raises `ValueError` for fewer than one step."""
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, not {steps}")
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    sigmas = math.exp(SHIFT) / (math.exp(SHIFT) + 1 / s - 1)
    clean = 1 - sigmas
    if steps > 1:
        clean = clean * ((1 - TERMINAL) / clean[-1])
    return torch.cat([1 - clean, torch.zeros(1, dtype=torch.float64)]).float()
