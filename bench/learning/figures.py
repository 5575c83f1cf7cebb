"""Metrics of one sound, and of one sound against another.

In: waveforms and log-mels. Out: numbers, all computed at 16 kHz, the bandwidth of the latents. Distances between sets
of sounds are in the package: `sonolora.analysis.likeness`.
M frames of 10 ms, F mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.analysis.likeness import FLOOR_DB, FRAME_SECONDS, log_mel
from sonolora.core.frames import Span, complement
from sonolora.media.audio import Waveform

_SEAM_SECONDS = 0.05  # on either side
_FLUX_HOP = 0.005
_FLUX_LAG = 3  # frames over which a rise counts
_NEAR_SEAM = 0.025

ONSET_TOLERANCE = 0.06
_ONSET_RISE_DB = 4.0  # mean over the bands
_ONSET_SHARE = 0.2  # of the clip's strongest rise
_ONSET_RANGE_DB = 45.0  # below the clip's loudest band; anything quieter is masked
_ONSET_APART = 0.06


def inside(frames: int, spans: Sequence[Span], hop: float = FRAME_SECONDS) -> Tensor:
    """Mask of the frames whose centre lies in one of the spans, (M,) bool."""
    centres = torch.arange(frames) * hop
    return torch.stack([(centres >= start) & (centres < end) for start, end in spans]).any(0)


def mel_distance(made_MF: Tensor, true_MF: Tensor) -> float:
    """Mean absolute difference of levels over frames and bands, dB."""
    return (made_MF - true_MF).abs().mean().item()


def seam_steps(sound: Waveform, seams: Sequence[float]) -> Tensor:
    """Rise of the level across each seam in dB, (seams,): 50 ms after it against 50 ms before it."""
    samples = sound.samples
    count = round(_SEAM_SECONDS * sound.sample_rate)

    def level(first: int, last: int) -> Tensor:
        power = torch.from_numpy(samples[:, max(first, 0) : last]).square().mean()
        return 10 * power.clamp(min=10 ** (FLOOR_DB / 10)).log10()

    places = [round(seam * sound.sample_rate) for seam in seams]
    return torch.stack([level(at, at + count) - level(at - count, at) for at in places])


def seam_flux(sound: Waveform, seams: Sequence[float]) -> Tensor:
    """Strongest spectral flux within 25 ms of each seam in dB, (seams,)."""
    flux = _flux(log_mel(sound, _FLUX_HOP))
    centres = torch.arange(len(flux)) * _FLUX_HOP
    return torch.stack([flux[(centres - seam).abs() <= _NEAR_SEAM].max() for seam in seams])


def seams_of(spans: Sequence[Span], seconds: float) -> list[float]:
    """The boundaries between kept and generated sound, in seconds."""
    kept = complement(spans, seconds)
    return sorted({edge for span in kept for edge in span if 0 < edge < seconds})


def onsets(sound: Waveform) -> list[float]:
    """Onset times in seconds: peaks of the rise of all bands within 15 ms.

    A rise counts if it is at least a fifth of the clip's strongest and 4 dB on average over the bands. Levels far below
    the clip's loudest are clamped first, so that background noise has no onsets; a silent clip has none.
    """
    levels = log_mel(sound, _FLUX_HOP)
    flux = _flux(levels.clamp(min=(levels.max() - _ONSET_RANGE_DB).item()))
    near = round(_ONSET_APART / _FLUX_HOP)
    highest = F.max_pool1d(flux[None], 2 * near + 1, stride=1, padding=near)[0]
    threshold = max(_ONSET_RISE_DB, _ONSET_SHARE * flux.max().item())
    peaks = torch.nonzero((flux == highest) & (flux > threshold))[:, 0].tolist()
    return [frame * _FLUX_HOP for frame in peaks]


def f_score(found: Sequence[float], true: Sequence[float], tolerance: float = ONSET_TOLERANCE) -> float:
    """F-score of two sorted lists of seconds, matched one to one; 1 if both are empty."""
    rest, hits = list(true), 0
    for one in found:
        while rest and rest[0] < one - tolerance:
            rest.pop(0)
        if rest and rest[0] <= one + tolerance:
            rest.pop(0)
            hits += 1
    total = len(found) + len(true)
    return 2 * hits / total if total else 1.0


def _flux(levels_MF: Tensor) -> Tensor:
    """Mean rise of the bands within the lag in dB, (M,), centred on the rise; falls count as 0."""
    before, after = _FLUX_LAG - _FLUX_LAG // 2, _FLUX_LAG // 2
    padded = F.pad(levels_MF.T, (before, after), mode="replicate").T
    return (padded[_FLUX_LAG:] - padded[:-_FLUX_LAG]).clamp(min=0).mean(1)
