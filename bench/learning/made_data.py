"""Synthetic datasets, one for each mode, of kinds of sound that the base was never trained on.

In: a mode, a seed, an index, seconds. Out: a `Made`: the true sound and all that is given beside it; as files in the
mode's own layout for training, and as the `PreviewSpec` that asks for the sound of one of them. A `Made` is a pure
function of (mode, seed, index, seconds), so that a split by index is a split of the data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "tiny"))

from corpus import sound
from films import FRAME_COUNTS, FRAME_RATE, film
from scenes import HELD_OUT_KINDS as FILMS
from sounds import HELD_OUT_KINDS as SOUNDS

from sonolora.core.frames import Span, complement
from sonolora.data.conditioning_inputs import muted
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.modes.preview_spec import PreviewSpec
from sonolora.modes.request import NEGATIVE_PROMPT

KINDS = {
    "t2a": "laser",
    "a2a": "chiptune",
    "v2a": "hammering",
    "audio-inpaint": "purr",
    "audio-extend-suffix": "creak",
    "audio-extend-prefix": "creak",
}
SHORTEST_FILM = 9  # frames
_GIVEN = 0.4  # share of a clip that an extension is given
_KNOWN_SEED = 2  # seed of sounds of known kinds; added to 1,000 times the seed of the data


@dataclass(frozen=True, eq=False)
class Made:
    """One sample. `true` is the sound, stereo at 48 kHz; the rest is the conditioning of its mode."""

    caption: str
    true: Waveform
    reference: Waveform | None = None
    regenerate: tuple[Span, ...] | None = None  # seconds to regenerate; None: all
    film: NDArray[np.uint8] | None = None  # (frames, height, width, 3), at `films.FRAME_RATE`
    events: tuple[float, ...] = ()  # seconds of the impacts in the video

    @property
    def seconds(self) -> float:
        return self.true.seconds


def make(mode: str, seed: int, index: int, seconds: float) -> Made:
    """Sample number `index` (from 0). A video has the 8 k + 1 frames that are closest to `seconds`."""
    kind = KINDS[mode]
    if mode == "v2a":
        return _film(seed, index, seconds)
    sample = sound(seed, index, seconds, {kind: SOUNDS[kind]})
    if mode == "a2a":
        return Made(sample.caption, radio(sample.audio), reference=sample.audio)
    spans: dict[str, tuple[Span, ...]] = {
        "audio-inpaint": (_gap(seed, index, seconds),),
        "audio-extend-suffix": ((0.0, (1 - _GIVEN) * seconds),),
        "audio-extend-prefix": ((_GIVEN * seconds, seconds),),
    }
    return Made(sample.caption, sample.audio, regenerate=spans.get(mode))


def known_sounds(seed: int, count: int, seconds: float) -> list[Made]:
    """Sounds of kinds that the base was trained on, all of different kinds as far as possible."""
    samples = [sound(1000 * seed + _KNOWN_SEED, index, seconds) for index in range(count)]
    return [Made(sample.caption, sample.audio) for sample in samples]


def write_dataset(mode: str, folder: Path, samples: Sequence[Made]) -> dict[str, Any]:
    """Write samples of equal length to a new folder; returns the fields of a training request. Not for v2a."""
    folder.mkdir()
    for index, made in enumerate(samples):
        path = folder / f"c{index:03d}"
        path.with_suffix(".txt").write_text(made.caption)
        if made.reference is not None:
            write_wav(path.with_name(f"{path.name}_start.wav"), made.reference)
            write_wav(path.with_name(f"{path.name}_end.wav"), made.true)
            continue
        write_wav(path.with_suffix(".wav"), made.true)
        if mode == "audio-inpaint":
            path.with_name(f"{path.name}_mask.json").write_text(json.dumps(made.regenerate))
    return {"training_data_url": str(folder)} | _lengths(mode, samples[0], "audio_duration_seconds")


def preview_spec(mode: str, path: Path, made: Made) -> PreviewSpec:
    """The preview request for the sample; its conditioning is written to `path`. Not for v2a.

    What is to be generated is in no file: a clip to inpaint is silent there, one to extend ends there.
    """
    spec = PreviewSpec(made.caption, NEGATIVE_PROMPT, made.seconds, regenerate=made.regenerate)
    if made.reference is not None:
        write_wav(path, made.reference)
        return replace(spec, reference=str(path))
    if made.regenerate is None:
        return spec
    given = muted(made.true, made.regenerate)
    if mode == "audio-inpaint":
        write_wav(path, given)
        return replace(spec, source=str(path))
    ((start, end),) = complement(made.regenerate, made.seconds)
    first, last = (round(edge * given.sample_rate) for edge in (start, end))
    write_wav(path, replace(given, samples=given.samples[:, first:last]))
    return replace(spec, source=str(path), given_seconds=_GIVEN * made.seconds, source_at_end=start > 0)


def _lengths(mode: str, made: Made, name: str) -> dict[str, float]:
    given = {"conditioning_seconds": _GIVEN * made.seconds} if mode.startswith("audio-extend") else {}
    return {name: made.seconds, **given}


def _gap(seed: int, index: int, seconds: float) -> Span:
    length, place = np.random.default_rng([seed, index]).uniform((0.25, 0.0), (0.5, 1.0)) * seconds
    start = place * (1 - length / seconds)
    return float(start), float(start + length)


def _film(seed: int, index: int, seconds: float) -> Made:
    pictures = max(round((seconds * FRAME_RATE - 1) / 8) * 8 + 1, SHORTEST_FILM)
    enough = next(count for count in FRAME_COUNTS if count >= pictures)
    whole = film(seed, index, enough, kinds={KINDS["v2a"]: FILMS[KINDS["v2a"]]})
    seconds = pictures / FRAME_RATE
    samples = whole.audio.samples[:, : round(seconds * whole.audio.sample_rate)]
    events = tuple(event for event in whole.events if event < seconds)
    return Made(whole.caption, replace(whole.audio, samples=samples), film=whole.frames[:pictures], events=events)


def radio(clean: Waveform) -> Waveform:
    """The sound of an overdriven pocket radio: band-pass 400 to 2800 Hz, soft clipping, the band-pass again."""

    def narrow(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        hertz = np.fft.rfftfreq(samples.shape[1], 1 / clean.sample_rate)
        return np.fft.irfft(np.fft.rfft(samples) * ((hertz > 400) & (hertz < 2800)), samples.shape[1])

    narrowed = narrow(clean.samples)
    driven = narrow(np.tanh(6 * narrowed / max(np.abs(narrowed).max(), 1e-9)))
    level = 0.5 / max(np.abs(driven).max(), 1e-9)
    return Waveform((level * driven).astype(np.float32), clean.sample_rate)
