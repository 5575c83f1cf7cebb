"""What trimming takes away. In: what is kept of a recording, and what is cut off. Out: seconds of sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonolora.media.audio import Waveform

_FRAME_SECONDS = 0.02
_AUDIBLE_DB = 40.0  # below the loudest moment: reverberation and room tone are fainter
_STEADY_DB = 9.0  # between the quantiles below: rain and engines vary by less, speech and single events by more
_QUANTILES = 0.1, 0.9


def lost_seconds(kept: Waveform, rest: Waveform) -> float:
    """Seconds of `rest` in which something sounds; 0 where it goes on as steadily as `kept`: more of the same."""
    kept_levels, rest_levels = _levels(kept), _levels(rest)
    levels = np.concatenate([kept_levels, rest_levels])
    if not len(rest_levels) or not np.isfinite(levels.max()):
        return 0.0
    floor = levels.max() - _AUDIBLE_DB
    low, high = np.quantile(np.maximum(levels, floor), _QUANTILES)
    if high - low < _STEADY_DB:
        return 0.0
    return float((rest_levels > floor).sum()) * _FRAME_SECONDS


def _levels(sound: Waveform) -> NDArray[np.floating]:
    """Mean power in dB of frames of 20 ms, (frames,)."""
    length = max(1, round(_FRAME_SECONDS * sound.sample_rate))
    count = sound.samples.shape[1] // length
    frames = sound.samples[:, : count * length].reshape(sound.channels, count, length)
    power = np.square(frames).mean(axis=(0, 2), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(power)  # type: ignore[no-any-return]
