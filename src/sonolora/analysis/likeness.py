"""How alike two sets of sounds are, without pairing their members.

In: waveforms. Out: log-mel spectrograms, descriptors and the energy distance of two sets (Székely and Rizzo),
2 E|x - y| - E|x - x'| - E|y - y'|: 0 for equal sets, and larger the more they differ in their means or in their
spread. It needs no fitted model, so a dozen sounds are enough. The estimate is unbiased: a sound is not compared with
itself, so the distance of few sounds is no larger on average than that of many, and may be below 0 where two sets are
alike. All sounds are analysed at 16 kHz, which is the
bandwidth that a latent holds.

M frames of 10 ms, F mel bands, D dimensions of a descriptor, N and K sounds of a set, W weightings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.analysis.mel import mel_filters
from sonolora.media.audio import Waveform, peak_normalized, resample

SAMPLE_RATE = 16_000
FLOOR_DB = -60.0  # a full-scale sine has 0 dB; anything fainter is masked by a sound that peaks near full scale
FRAME_SECONDS = 0.01
BANDS = 40
_HOPS_PER_WINDOW = 4
_ROUNDING = 1e-9

_BANDS_PER_GROUP = 5
_MODULATION_EDGES_HERTZ = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_MODULATION_FFT = 512  # long enough to give the slowest modulations bins of their own


def log_mel(sound: Waveform, hop_seconds: float = FRAME_SECONDS) -> Tensor:
    """Band powers (M, F) in dB, averaged over channels. Frame m is centred at m hops and four hops long."""
    samples = torch.from_numpy(resample(sound, SAMPLE_RATE).samples)
    hop = round(hop_seconds * SAMPLE_RATE)
    window = torch.hann_window(_HOPS_PER_WINDOW * hop)
    spectrum = torch.stft(samples, len(window), hop, window=window, center=False, return_complex=True)
    power = spectrum.abs().square().mean(0) * (4 / (len(window) * window.square().sum()))
    bands = _filters(len(window)) @ power
    # Windows that reach beyond an end would look like onsets: the last whole window stands in for them.
    padded = F.pad(bands, (_HOPS_PER_WINDOW // 2, _HOPS_PER_WINDOW // 2), mode="replicate")
    return 10 * padded.clamp(min=10 ** (FLOOR_DB / 10)).log10().T


@cache
def _filters(window: int) -> Tensor:
    """Triangles (F, bins) whose highest bin is 1."""
    filters = torch.from_numpy(mel_filters(BANDS, window, SAMPLE_RATE)).float()
    return filters / filters.amax(1, keepdim=True)


def description(levels_MF: Tensor) -> Tensor:
    """A descriptor (D,) of a sound, all in dB, that does not depend on when things happen in it.

    The mean and the standard deviation of each band over time, and for every group of five bands the depth of its
    modulation in five octaves of modulation frequency, 1 to 32 Hz.
    """
    mean_F = levels_MF.mean(0)
    deviation = (levels_MF - mean_F).reshape(len(levels_MF), -1, _BANDS_PER_GROUP).mean(2)
    window = torch.hann_window(len(deviation), periodic=False)[:, None]
    spectrum = torch.fft.rfft(deviation * window, n=_MODULATION_FFT, dim=0).abs().square()
    # Scaled so that a modulation at one frequency has its mean square, whatever the length of the sound.
    power = 2 * spectrum / (_MODULATION_FFT * window.square().sum())
    hertz = torch.fft.rfftfreq(_MODULATION_FFT, FRAME_SECONDS)
    octaves = pairwise(_MODULATION_EDGES_HERTZ)
    depths = [power[(hertz >= low) & (hertz < high)].sum(0).sqrt() for low, high in octaves]
    return torch.cat([mean_F, levels_MF.std(0, correction=0), *depths])


def descriptions(sounds: Sequence[Waveform]) -> Tensor:
    """Descriptors (N, D), float64, of sounds normalised to one peak: the level of a set says little about it."""
    return torch.stack([description(log_mel(peak_normalized(sound))) for sound in sounds]).double()


def distances(one_ND: Tensor, other_KD: Tensor) -> Tensor:
    """Euclidean distances of all pairs, (N, K)."""
    # The faster method by matrix products loses digits where two sounds are nearly equal.
    return torch.cdist(one_ND, other_KD, compute_mode="donot_use_mm_for_euclid_dist")


def energy_distance(one_ND: Tensor, other_KD: Tensor) -> float:
    """The energy distance of two sets of descriptors. Of one sound alone the spread counts as 0."""
    weights = torch.full((1, len(one_ND)), 1 / len(one_ND)), torch.full((1, len(other_KD)), 1 / len(other_KD))
    return weighted_energy(one_ND, other_KD, weights[0].to(one_ND), weights[1].to(other_KD)).item()


def weighted_energy(one_ND: Tensor, other_KD: Tensor, weights_WN: Tensor, weights_WK: Tensor) -> Tensor:
    """The energy distances (W,) of two sets under several weightings of their members, each of sum 1."""

    def mean(a: Tensor, weights_a: Tensor, b: Tensor, weights_b: Tensor) -> Tensor:
        return ((weights_a @ distances(a, b)) * weights_b).sum(1)

    def within(a: Tensor, weights: Tensor) -> Tensor:
        # Pairs of a sound with itself have distance 0: what is left is the weight of all other pairs.
        others = 1 - weights.square().sum(1)
        return mean(a, weights, a, weights) / torch.where(others > _ROUNDING, others, torch.ones_like(others))

    between = mean(one_ND, weights_WN, other_KD, weights_WK)
    return 2 * between - within(one_ND, weights_WN) - within(other_KD, weights_WK)
