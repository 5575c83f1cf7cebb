"""Distances between two sounds: the metrics that evaluate the codec.

In: two sounds of equal length and rate, (C, N) tensors. Out: metrics, 0 for equal sounds.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.analysis.mel import mel_filters

_FLOOR_DB = -100.0  # a sine of full scale has 0 dB; sounds of 16 bits have noise below
_LSD_SECONDS = 0.04
_MEL_SCALES = ((0.01, 20), (0.02, 40), (0.04, 80), (0.08, 160))  # window in seconds, bands
_LEVEL_SECONDS = 0.1
_LEVEL_FLOOR_DB = -60.0
_CLICK_SECONDS = 0.002
_CLICK_NEIGHBOURS = 25  # windows before and after
_CLICK_DB, _CLICK_FLOOR_DB = 18.0, -70.0
_ALSO_IN_TRUTH_DB = 10.0


def log_spectral_distance(made: Tensor, true: Tensor, rate: int) -> float:
    """dB: RMS over frequency of the level difference, averaged over time."""
    size = _even(_LSD_SECONDS * rate)
    difference = _decibels(_spectrum(made, size)) - _decibels(_spectrum(true, size))
    return difference.square().mean(1).sqrt().mean().item()


def mel_distance(made: Tensor, true: Tensor, rate: int) -> float:
    """dB: mean absolute difference of mel levels at several resolutions in time and frequency."""
    distances = []
    for seconds, bands in _MEL_SCALES:
        size = _even(seconds * rate)
        filters = averaging_filters(bands, size, rate)
        ours, theirs = (_decibels(filters @ _spectrum(sound, size)) for sound in (made, true))
        distances.append((ours - theirs).abs().mean())
    return torch.stack(distances).mean().item()


def level_error(made: Tensor, true: Tensor, rate: int) -> tuple[float, float]:
    """dB: how much too loud the sound is, and how much this grows from its first third to its last.

    Windows in which the true sound is silent do not count.
    """
    ours, theirs = (_levels(sound.mean(0), round(_LEVEL_SECONDS * rate)) for sound in (made, true))
    heard = theirs > _LEVEL_FLOOR_DB
    if not heard.any():
        return 0.0, 0.0
    error = (ours.clamp(min=_LEVEL_FLOOR_DB) - theirs)[heard]
    third = max(1, len(error) // 3)
    return error.mean().item(), (error[-third:].mean() - error[:third].mean()).item()


def clicks(made: Tensor, true: Tensor, rate: int) -> int:
    """Number of added clicks: treble jumps within 2 ms that the true sound does not have."""
    ours, theirs = (_jumps(sound.mean(0), rate) for sound in (made, true))
    # A jump of the true sound a few windows earlier or later excuses one here.
    excused = F.max_pool1d(theirs[None], 9, stride=1, padding=4)[0] > _ALSO_IN_TRUTH_DB
    clicking = (ours > _CLICK_DB) & ~excused
    return int((clicking[1:] & ~clicking[:-1]).sum().item())


@cache
def averaging_filters(bands: int, size: int, rate: int) -> Tensor:
    """Mel filters (bands, bins) of sum 1; bands narrower than a bin are dropped."""
    filters = torch.from_numpy(mel_filters(bands, size, rate)).float()
    filters = filters[filters.sum(1) > 0]
    return filters / filters.sum(1, keepdim=True)


def _jumps(sound: Tensor, rate: int) -> Tensor:
    """dB by which the level of each window's second difference exceeds the median around it; 0 where it is faint."""
    levels = _levels(sound.diff(n=2), round(_CLICK_SECONDS * rate)).clamp(min=_CLICK_FLOOR_DB)
    around = F.pad(levels[None, None], (_CLICK_NEIGHBOURS, _CLICK_NEIGHBOURS), mode="replicate")[0, 0]
    return levels - around.unfold(0, 2 * _CLICK_NEIGHBOURS + 1, 1).median(-1).values


def _levels(sound: Tensor, size: int) -> Tensor:
    """dB of each window of `size` samples."""
    windows = sound[: len(sound) // size * size].reshape(-1, size)
    return 10 * (windows.square().mean(1) + 1e-12).log10()


def _spectrum(sound: Tensor, size: int) -> Tensor:
    """(C, bins, frames) magnitudes; a sine of full scale has 1."""
    window = torch.hann_window(size)
    return torch.stft(sound, size, size // 4, window=window, return_complex=True).abs() * (2 / window.sum())


def _decibels(magnitudes: Tensor) -> Tensor:
    return 20 * magnitudes.clamp(min=10 ** (_FLOOR_DB / 20)).log10()


def _even(samples: float) -> int:
    return 2 * round(samples / 2)
