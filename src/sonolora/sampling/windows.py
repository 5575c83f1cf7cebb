"""Sounds longer than a LoRA was trained on: overlapping windows of the trained length, denoised together.

In: the frames of the whole sound and of a window. Out: where the windows lie, and one `Denoise` for the whole sound out
of one for each window. At every sampling step each window predicts its own clean latents, and the predictions are
blended where windows overlap, so that neighbours agree on what they share. Each window is a clip of its own with
positions from 0 s, as in training.

T frames of the whole sound, W of a window. Source: joint diffusion of overlapping windows (MultiDiffusion,
arXiv:2302.08113), in the space of clean latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sonolora.sampling.denoiser import Denoise


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """First frames of windows that cover `frames`, evenly spread, each sharing at least `overlap` with the next."""
    if frames <= window:
        return [0]
    count = -(-(frames - overlap) // (window - overlap))
    return [round(index * (frames - window) / (count - 1)) for index in range(count)]


def blend_weights(starts: Sequence[int], window: int, frames: int) -> Tensor:
    """Shares of each window in each of its frames, (windows, W): linear ramps over the overlaps; they sum to 1.

    The first frame of a window after the first has no share: a clip's first latent stands for 10 ms, not 40.
    """
    weights = torch.ones(len(starts), window)
    for index, (start, following) in enumerate(pairwise(starts)):
        shared = start + window - following
        ramp = torch.arange(shared) / shared
        weights[index + 1, :shared] = torch.minimum(weights[index + 1, :shared], ramp)
        weights[index, window - shared :] = torch.minimum(weights[index, window - shared :], 1 - ramp)
    total = torch.zeros(frames)
    for start, own in zip(starts, weights, strict=True):
        total[start : start + window] += own
    return torch.stack([own / total[start : start + window] for start, own in zip(starts, weights, strict=True)])


class WindowedDenoiser:
    """The `Denoise` of a whole sound out of those of its windows, which all have W frames."""

    def __init__(self, denoisers: Sequence[Denoise], starts: Sequence[int], window: int, frames: int) -> None:
        self._denoisers = denoisers
        self._starts = starts
        self._window = window
        self._weights_NW1 = blend_weights(starts, window, frames)[..., None]

    def __call__(self, x_BTC: Tensor, sigma: float) -> Tensor:
        clean = torch.zeros_like(x_BTC)
        weights = self._weights_NW1.to(x_BTC.device)
        for denoise, start, weight in zip(self._denoisers, self._starts, weights, strict=True):
            part = slice(start, start + self._window)
            clean[:, part] += weight * denoise(x_BTC[:, part], sigma)
        return clean
