"""Good data draws no warning: sets of one kind of sound each, as a careful user would make them."""

from __future__ import annotations

import numpy as np
import pytest
from sounds import HELD_OUT_KINDS, KINDS
from sounds.kind import RATE, Kind

from sonolora.analysis.background import background
from sonolora.analysis.measure import Measured, measure, silence
from sonolora.data.checks.sets import set_warnings
from sonolora.data.checks.sounds import sound_warnings
from sonolora.media.audio import Waveform
from sonolora.runs.demo import CLIPS, clip

CODEC_RATE = 16_000
SECONDS = 2.0
# Silence has a warning of its own; noise is at times mono and at times stereo, of which there is one, too. Surf between
# two waves and the rumble after a clap of thunder are steady noise, and a choir on a low B is steady lines near
# multiples of 60 Hz: a clip of each of these is taken for background, and the warning says what to do if it is none.
AMBIGUOUS = ("silence", "noise", "surf", "thunder", "choir")
EVERY_KIND = {name: kind for name, kind in {**KINDS, **HELD_OUT_KINDS}.items() if name not in AMBIGUOUS}
QUICK = ("drum", "bird", "chiptune", "drips")


def made(kind: Kind, *key: int) -> Waveform:
    """A clip of a kind at some level, as a file of 16 bits holds it, without silence before it."""
    rng = np.random.default_rng(key)
    samples, _ = kind.make(rng, SECONDS)
    samples = samples * 10 ** (rng.uniform(-9, -1) / 20) / np.abs(samples).max()
    waveform = Waveform((np.rint(samples * 32767) / 32768).astype(np.float32), RATE)
    leading = round(silence(waveform)[1] * RATE)
    return Waveform(waveform.samples[:, leading:], RATE)


def warnings_of(clips: dict[str, Waveform]) -> list[tuple[str, str]]:
    measured: list[tuple[str, Measured]] = [(name, measure(sound)) for name, sound in clips.items()]
    return [
        *((name, text) for name, one in measured for text in sound_warnings(one, background(clips[name]), CODEC_RATE)),
        *set_warnings(measured, peak_normalized=True),
    ]


def of_kind(name: str, count: int) -> dict[str, Waveform]:
    number = list(EVERY_KIND).index(name)
    return {f"{name} {index}": made(EVERY_KIND[name], 5, number, index) for index in range(count)}


@pytest.mark.parametrize("name", QUICK)
def test_a_few_clips_of_a_kind(name: str) -> None:
    assert warnings_of(of_kind(name, 5)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_set_of_a_kind(name: str) -> None:
    assert warnings_of(of_kind(name, 12)) == []


def test_the_demos_own_data() -> None:
    assert warnings_of({str(index): clip(index)[0] for index in range(CLIPS)}) == []
