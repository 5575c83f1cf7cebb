"""How like two sets of sounds are, whichever sound of the one belongs to which of the other.

In: waveforms. Out: log-mels, descriptions and the energy distance of two sets (Székely and Rizzo),
2 E|x - y| - E|x - x'| - E|y - y'|: 0 for equal sets, and more the less alike they are, in what is usual as well as in
how much they vary. It needs no fit, so that a dozen sounds do. Everything is of the sound at 16 kHz, which is as much
of it as a latent holds.

M frames of 10 ms, F mel bands, D dimensions of a description, N and K sounds of a set, W weightings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.ltx.codec.log_mel import mel_filterbank
from sonolora.media.audio import Waveform, peak_normalized, resample

RATE = 16_000
FLOOR_DB = -60.0  # a sine of full scale has 0 dB; what is fainter is not heard beside a sound of about that peak
FRAME_SECONDS = 0.01
BANDS = 40
_HOPS = 4  # of a window

_BANDS_TOGETHER = 5
_MODULATIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # edges in hertz
_MODULATION_FRAMES = 512  # of the transform, so that the slowest modulations have bins of their own


def log_mel(sound: Waveform, hop: float = FRAME_SECONDS) -> Tensor:
    """Power of each band (M, F) in dB, both channels together; frame m is centred at m * hop, and four hops long."""
    samples = torch.from_numpy(resample(sound, RATE).samples)
    step = round(hop * RATE)
    window = torch.hann_window(_HOPS * step)
    spectrum = torch.stft(samples, len(window), step, window=window, center=False, return_complex=True)
    power = spectrum.abs().square().mean(0) * (4 / (len(window) * window.square().sum()))
    bands = _filters(len(window)) @ power
    # At the ends the last whole window stands for those that reach beyond, since every edge looks like an onset.
    whole = F.pad(bands, (_HOPS // 2, _HOPS // 2), mode="replicate")
    return 10 * whole.clamp(min=10 ** (FLOOR_DB / 10)).log10().T


@cache
def _filters(window: int) -> Tensor:
    """Triangles of height 1, (F, bins)."""
    filters = mel_filterbank(BANDS, window, RATE, 0, RATE / 2)
    return filters / filters.amax(1, keepdim=True)


def description(levels_MF: Tensor) -> Tensor:
    """What a sound is like, whenever things happen in it: (D,), all in dB.

    Each band's mean and spread over time, and, for every five bands together, the depth of modulation at five
    octaves of rates from 1 to 32 Hz.
    """
    mean_F = levels_MF.mean(0)
    course = (levels_MF - mean_F).reshape(len(levels_MF), -1, _BANDS_TOGETHER).mean(2)
    window = torch.hann_window(len(course), periodic=False)[:, None]
    spectrum = torch.fft.rfft(course * window, n=_MODULATION_FRAMES, dim=0).abs().square()
    # So that a modulation of one rate has its mean square, whatever the length of the sound.
    power = 2 * spectrum / (_MODULATION_FRAMES * window.square().sum())
    hertz = torch.fft.rfftfreq(_MODULATION_FRAMES, FRAME_SECONDS)
    depths = [power[(hertz >= low) & (hertz < high)].sum(0).sqrt() for low, high in pairwise(_MODULATIONS)]
    return torch.cat([mean_F, levels_MF.std(0, correction=0), *depths])


def descriptions(sounds: Sequence[Waveform]) -> Tensor:
    """(N, D) float64, of sounds brought to one peak level: how loud a set is says little of what it is."""
    return torch.stack([description(log_mel(peak_normalized(sound))) for sound in sounds]).double()


def distances(one_ND: Tensor, other_KD: Tensor) -> Tensor:
    """Between all pairs, (N, K)."""
    # Not by the quick way over products, which loses digits where sounds are nearly equal.
    return torch.cdist(one_ND, other_KD, compute_mode="donot_use_mm_for_euclid_dist")


def energy_distance(one_ND: Tensor, other_KD: Tensor) -> float:
    """Of two sets of described sounds."""
    shares = torch.full((1, len(one_ND)), 1 / len(one_ND)), torch.full((1, len(other_KD)), 1 / len(other_KD))
    return weighted_energy(one_ND, other_KD, shares[0].to(one_ND), shares[1].to(other_KD)).item()


def weighted_energy(one_ND: Tensor, other_KD: Tensor, shares_WN: Tensor, shares_WK: Tensor) -> Tensor:
    """The energy distances (W,) of two sets whose sounds count by shares that sum to 1."""

    def mean(a: Tensor, shares_a: Tensor, b: Tensor, shares_b: Tensor) -> Tensor:
        return ((shares_a @ distances(a, b)) * shares_b).sum(1)

    cross = mean(one_ND, shares_WN, other_KD, shares_WK)
    within = mean(one_ND, shares_WN, one_ND, shares_WN) + mean(other_KD, shares_WK, other_KD, shares_WK)
    return 2 * cross - within
