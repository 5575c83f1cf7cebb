"""Made datasets, one for each mode: real files in the mode's own layout, of kinds that the base is never trained on.

In: a mode, a folder, how many samples and how long. Out: the files, and the fields of a request that fits them.
A sample is a pure function of (seed, index), so that a split by index is a split of the data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "tiny"))

from corpus import sound
from films import FRAME_COUNTS, FRAME_RATE, film
from scenes import HELD_OUT_KINDS as FILMS
from sounds import HELD_OUT_KINDS as SOUNDS

from sonolora.media.audio import Waveform
from sonolora.media.write import write_wav
from sonolora.media.write_video import write_video

KINDS = {
    "t2a": "laser",
    "a2a": "theremin",
    "v2a": "hammering",
    "audio-inpaint": "crickets",
    "audio-extend-suffix": "purr",
    "audio-extend-prefix": "creak",
}
_GIVEN = 0.4  # share of a clip that an extension is given
_FILM_RATE = 8  # pictures a second that are trained, the fewest there may be
_LONGEST_FILM = 33  # pictures
_FILM_SIZE = (96, 160)  # height and width as made; training makes them 288 x 512, the smallest there is


def write_dataset(mode: str, folder: Path, count: int, seconds: float, seed: int) -> dict[str, Any]:
    """Write `count` samples of `mode` into a new folder; returns the fields of a request for clips of `seconds`.

    A film lasts the nearest 8 k + 1 pictures to it, 8 a second, from 9 to 33.
    """
    folder.mkdir()
    fields: dict[str, Any] = {"training_data_url": str(folder)}
    if mode == "v2a":
        pictures = min(max(round((seconds * _FILM_RATE - 1) / 8), 1) * 8 + 1, _LONGEST_FILM)
        for index in range(count):
            _write_film(folder / f"c{index:03d}", pictures / _FILM_RATE, seed, index)
        return fields | {
            "number_of_frames": pictures,
            "frame_rate": _FILM_RATE,
            "resolution": "low",
            "aspect_ratio": "16:9",
        }
    for index in range(count):
        _write_sound(mode, folder / f"c{index:03d}", seconds, seed, index)
    if mode.startswith("audio-extend"):
        fields["conditioning_seconds"] = _GIVEN * seconds
    return fields | {"audio_duration_seconds": seconds}


def _write_sound(mode: str, path: Path, seconds: float, seed: int, index: int) -> None:
    kind = KINDS[mode]
    sample = sound(seed, index, seconds, {kind: SOUNDS[kind]})
    path.with_suffix(".txt").write_text(sample.caption)
    if mode == "a2a":
        write_wav(path.with_name(f"{path.name}_start.wav"), sample.audio)
        write_wav(path.with_name(f"{path.name}_end.wav"), radio(sample.audio))
        return
    write_wav(path.with_suffix(".wav"), sample.audio)
    if mode == "audio-inpaint":
        length, place = np.random.default_rng([seed, index]).uniform((0.25, 0.0), (0.5, 1.0)) * seconds
        start = place * (1 - length / seconds)
        path.with_name(f"{path.name}_mask.json").write_text(json.dumps([[start, start + length]]))


def _write_film(path: Path, seconds: float, seed: int, index: int) -> None:
    frames = next(count for count in FRAME_COUNTS if count >= seconds * FRAME_RATE)
    made = film(seed, index, frames, _FILM_SIZE, {KINDS["v2a"]: FILMS[KINDS["v2a"]]})
    path.with_suffix(".txt").write_text(made.caption)
    write_video(path.with_suffix(".mp4"), made.frames, FRAME_RATE, made.audio)


def radio(clean: Waveform) -> Waveform:
    """The sound as from an overdriven pocket radio: 400 to 2800 Hz, soft clipping, and 400 to 2800 Hz again."""

    def narrow(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        hertz = np.fft.rfftfreq(samples.shape[1], 1 / clean.sample_rate)
        return np.fft.irfft(np.fft.rfft(samples) * ((hertz > 400) & (hertz < 2800)), samples.shape[1])

    narrowed = narrow(clean.samples)
    driven = narrow(np.tanh(6 * narrowed / max(np.abs(narrowed).max(), 1e-9)))
    level = 0.5 / max(np.abs(driven).max(), 1e-9)
    return Waveform((level * driven).astype(np.float32), clean.sample_rate)
