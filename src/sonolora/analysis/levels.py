"""Bringing sounds to one loudness, so that they can be compared by ear and eye. In: waveforms. Out: gains in dB."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sonolora.analysis.measure import loudness
from sonolora.media.audio import Waveform, peak

LISTENING_LUFS = -20.0  # where nothing says how loud it should be
_PEAK_DBFS = -1.0
_MAX_GAIN_DB = 30.0  # beyond, a sound is noise or silence


def matching_gain_db(sound: Waveform, wanted: Waveform | None = None) -> float:
    """Gain that brings a sound to the loudness of another one, as far as its peak allows; 0 for silence."""
    lufs, target = loudness(sound), LISTENING_LUFS if wanted is None else loudness(wanted)
    if not (math.isfinite(lufs) and math.isfinite(target)):
        return 0.0
    headroom = _PEAK_DBFS - 20 * math.log10(max(peak(sound), 1e-9))
    return float(np.clip(min(target - lufs, headroom), -_MAX_GAIN_DB, _MAX_GAIN_DB))


def amplified(sound: Waveform, gain_db: float) -> Waveform:
    """The sound at another level."""
    return replace(sound, samples=sound.samples * np.float32(10 ** (gain_db / 20)))


def gain_words(gain_db: float) -> str:
    """Such as `12 dB louder`; empty for less than half a decibel."""
    if abs(gain_db) < 0.5:
        return ""
    return f"{abs(gain_db):.0f} dB {'louder' if gain_db > 0 else 'softer'}"
