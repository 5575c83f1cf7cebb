"""Fitting a clip to the length that training wants. In: a waveform and seconds. Out: a `Fitted`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from python_stretch.Signalsmith import Stretch

from sonolora.media.audio import Waveform

NEAR_MISS = 0.02  # of the wanted length: what encoder padding and rounding do to clips of short lengths
EQUAL_SECONDS = 0.001

_STRETCH_SEED = 0


@dataclass(frozen=True)
class Fitted:
    """`waveform` has exactly the wanted number of samples; it is None when the clip was too short.

    `detail` is a sentence for the report. What was at t seconds in the clip is now at t * `stretch`.
    """

    waveform: Waveform | None
    how: Literal["exact", "trimmed", "stretched", "padded", "too short"]
    detail: str
    stretch: float = 1.0


def fit_audio(waveform: Waveform, seconds: float, *, preserve_pitch: bool) -> Fitted:
    """Fit a clip to exactly `round(seconds * sample_rate)` samples.

    The published page says that shorter clips are skipped, longer ones trimmed, and that
    `audio_preserve_pitch` is for "fitting audio to the target duration (instead of trimming/padding)". Taken
    together this is read as follows, by the difference to the wanted length:

    - under a millisecond: equal; it is cut or filled up without a word.
    - up to 2 %, a near miss on either side: with `preserve_pitch` stretched or squeezed to fit at the same
      pitch, otherwise padded with silence or trimmed, both at the end.
    - longer by more: trimmed at the end.
    - shorter by more: too short, left out.
    """
    wanted, present = round(seconds * waveform.sample_rate), waveform.samples.shape[1]
    has, wants = f"{waveform.seconds:.3f} s", f"{wanted / waveform.sample_rate:.3f} s"

    if abs(wanted - present) < EQUAL_SECONDS * waveform.sample_rate:
        return Fitted(cut_or_padded(waveform, wanted), "exact", f"{has} as wanted")
    if wanted - present > NEAR_MISS * wanted:
        detail = f"too short: it lasts {has} and {wants} are wanted, at most {NEAR_MISS:.0%} may be missing"
        return Fitted(None, "too short", detail)
    if preserve_pitch and present - wanted <= NEAR_MISS * wanted:
        detail = f"stretched from {has} to {wants}, pitch kept"
        return Fitted(stretched(waveform, wanted), "stretched", detail, wanted / present)
    if present > wanted:
        return Fitted(cut_or_padded(waveform, wanted), "trimmed", f"trimmed from {has} to {wants}")
    return Fitted(cut_or_padded(waveform, wanted), "padded", f"padded with silence from {has} to {wants}")


def cut_or_padded(waveform: Waveform, wanted: int) -> Waveform:
    """Exactly `wanted` samples: cut, or filled with silence, at the end."""
    samples = waveform.samples[:, :wanted]
    return replace(waveform, samples=np.pad(samples, ((0, 0), (0, wanted - samples.shape[1]))))


def stretched(waveform: Waveform, wanted: int) -> Waveform:
    """Exactly `wanted` samples: faster or slower, at the same pitch."""
    stretch = Stretch(_STRETCH_SEED)
    stretch.preset(waveform.channels, waveform.sample_rate)
    stretch.setTimeFactor(waveform.samples.shape[1] / wanted)  # a speed: above 1 is shorter
    samples = np.asarray(stretch.process(waveform.samples), dtype=np.float32)
    # Every length tried came out exact, but the library promises none. It fades the last 30 ms by up to 4 dB;
    # feeding it a mirrored end to cut off makes the peak there overshoot by 2 dB instead, which is worse.
    return cut_or_padded(replace(waveform, samples=samples), wanted)
