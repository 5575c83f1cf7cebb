"""Fitting a clip to the length that training needs. In: a waveform and seconds. Out: a `Fitted`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from python_stretch.Signalsmith import Stretch

from sonolora.media.audio import Waveform

NEAR_MISS = 0.02  # of the target length: what encoder padding and rounding do to short clips
EQUAL_SECONDS = 0.001

_CONTEXT_SECONDS = 0.25  # longer than a resampler's filter, so that no sample depends on where decoding ended
_STRETCH_SEED = 0


@dataclass(frozen=True)
class Fitted:
    """`waveform` has exactly the target number of samples; it is None if the clip is too short.

    `detail` is a sentence for the report. A time of t seconds in the kept part becomes t * `stretch`.
    """

    waveform: Waveform | None
    how: Literal["exact", "trimmed", "stretched", "padded", "too short"]
    detail: str
    stretch: float = 1.0


def seconds_used(seconds: float) -> float:
    """How much of a longer recording `fit_audio` needs at most, from the end that it keeps."""
    return seconds * (1 + NEAR_MISS) + _CONTEXT_SECONDS


def fit_audio(
    waveform: Waveform,
    seconds: float,
    *,
    preserve_pitch: bool,
    keep_end: bool = False,
    recording_seconds: float | None = None,
) -> Fitted:
    """Fit a clip to exactly `round(seconds * sample_rate)` samples.

    The published pages say that shorter clips are skipped and longer ones trimmed, and that `audio_preserve_pitch` is
    for "fitting audio to the target duration (instead of trimming/padding)". Both hold if the difference to the
    target length decides:

    - less than a millisecond: equal; cut or padded silently.
    - up to 2 %, a near miss in either direction: with `preserve_pitch` stretched or compressed to fit at the same
      pitch, otherwise padded with silence or trimmed.
    - longer by more: trimmed.
    - shorter by more: too short, skipped.

    Trimming and padding happen at the end, or with `keep_end` at the beginning. The waveform may be part of a longer
    recording of `recording_seconds`, provided that it holds `seconds_used` of it.
    """
    target, length = round(seconds * waveform.sample_rate), waveform.samples.shape[1]
    actual = f"{recording_seconds or waveform.seconds:.3f} s"
    wanted = f"{target / waveform.sample_rate:.3f} s"

    if abs(target - length) < EQUAL_SECONDS * waveform.sample_rate:
        return Fitted(cut_or_padded(waveform, target, keep_end=keep_end), "exact", f"{actual}, as needed")
    if target - length > NEAR_MISS * target:
        detail = f"too short: it lasts {actual}, and {wanted} are needed (at most {NEAR_MISS:.0%} may be missing)"
        return Fitted(None, "too short", detail)
    if preserve_pitch and length - target <= NEAR_MISS * target:
        detail = f"stretched from {actual} to {wanted} at its pitch"
        return Fitted(stretched(waveform, target), "stretched", detail, target / length)
    fitted = cut_or_padded(waveform, target, keep_end=keep_end)
    if length > target:
        return Fitted(fitted, "trimmed", f"trimmed from {actual} to {'the last ' if keep_end else ''}{wanted}")
    return Fitted(fitted, "padded", f"padded with silence from {actual} to {wanted}")


def cut_or_padded(waveform: Waveform, length: int, *, keep_end: bool = False) -> Waveform:
    """Exactly `length` samples: cut, or padded with silence, at the end; with `keep_end` at the beginning."""
    missing = length - waveform.samples.shape[1]
    samples = waveform.samples[:, max(0, -missing) :] if keep_end else waveform.samples[:, :length]
    padding = (max(0, missing), 0) if keep_end else (0, max(0, missing))
    return replace(waveform, samples=np.pad(samples, ((0, 0), padding)))


def stretched(waveform: Waveform, length: int) -> Waveform:
    """Exactly `length` samples: faster or slower, at the same pitch."""
    stretch = Stretch(_STRETCH_SEED)
    stretch.preset(waveform.channels, waveform.sample_rate)
    stretch.setTimeFactor(waveform.samples.shape[1] / length)  # a speed: above 1 is shorter
    samples = np.asarray(stretch.process(waveform.samples), dtype=np.float32)
    # Every length tried came out exact, but the library promises none. It fades the last 30 ms by up to 4 dB;
    # feeding it a mirrored end to cut off makes the peak there overshoot by 2 dB instead, which is worse.
    return cut_or_padded(replace(waveform, samples=samples), length)
