"""`sonolora demo`: makes a small dataset of real audio files and trains a LoRA on it, by the road of any run.

In: a folder. Out in it: `bells.zip` (16 captioned clips in six formats) and a run.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sonolora.files import atomic_write
from sonolora.media.audio import AUDIO_EXTENSIONS, Waveform
from sonolora.media.write import write_audio
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.runs.progress import Progress
from sonolora.runs.run import start
from sonolora.runs.settings import RunSettings

CLIPS = 16
TRIGGER = "gl4ssbell"
PROMPTS = ("a high glass bell struck once on C6, ringing long", "two low glass bells, A3 and E4, one after the other")
REQUEST: dict[str, Any] = {
    "trigger_phrase": TRIGGER,
    "rank": 16,
    "number_of_steps": 400,
    "learning_rate": 0.001,
    "audio_duration_seconds": 2.0,
    "validation": [{"prompt": f"{TRIGGER} {prompt}"} for prompt in PROMPTS],
}
_NOTES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_RATE = 44100
_SECONDS = 2.2
# Ratios of a bar's bending modes: what makes a bell sound like glass and not like a string.
_PARTIALS = ((1.0, 1.0, 1.8), (2.756, 0.5, 1.1), (5.404, 0.25, 0.6), (8.933, 0.12, 0.35))


def bell(pitch_hz: float, seconds: float, rate: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One stroke on a glass bell: decaying inharmonic partials, (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    sound = np.zeros_like(time)
    for ratio, level, decay in _PARTIALS:
        if pitch_hz * ratio < rate / 2:
            sound += level * np.sin(2 * np.pi * pitch_hz * ratio * time) * np.exp(-time / decay)
    return sound * np.minimum(1, time / 0.002)


def make_dataset(path: Path) -> None:
    """Write the zip of captioned clips."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for index in range(CLIPS):
            waveform, caption = _clip(index)
            name = f"bell{index + 1:02d}"
            with tempfile.TemporaryDirectory() as scratch:
                clip = Path(scratch) / f"{name}{AUDIO_EXTENSIONS[index % len(AUDIO_EXTENSIONS)]}"
                write_audio(clip, waveform)
                archive.write(clip, clip.name)
            archive.writestr(f"{name}.txt", caption)


def _clip(index: int) -> tuple[Waveform, str]:
    semitone = 7 * index % 36  # above A3; no two clips alike
    strokes = 1 + index % 2
    sound = np.zeros(round(_SECONDS * _RATE))
    for stroke in range(strokes):
        at = round((0.02 + 0.9 * stroke) * _RATE)
        one = bell(_hertz(semitone + 7 * stroke), _SECONDS, _RATE)
        sound[at:] += one[: len(sound) - at]
    side = 0.35 if index % 4 < 2 else 0.65
    stereo = np.stack([sound * (1 - side), sound * side])
    stereo *= 0.8 / np.abs(stereo).max()
    height = "low" if semitone < 12 else "clear" if semitone < 24 else "high"
    caption = (
        f"a {height} glass bell struck once on {_note(semitone)}, ringing long"
        if strokes == 1
        else f"two {height} glass bells, {_note(semitone)} and {_note(semitone + 7)}, one after the other"
    )
    return Waveform(stereo.astype(np.float32), _RATE), caption


def _hertz(semitone: int) -> float:
    return float(220 * 2 ** (semitone / 12))


def _note(semitone: int) -> str:
    octave, place = divmod(semitone + 9, 12)
    return f"{_NOTES[place]}{octave + 3}"


def run_demo(folder: Path, progress: Progress, stop: Callable[[], bool]) -> Path:
    """Make the data, train, and return the LoRA's path."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "bells.zip"
    progress.message(f"making {CLIPS} clips of a glass bell in {len(AUDIO_EXTENSIONS)} formats: {data}")
    make_dataset(data)
    number = 1 + sum(1 for _ in folder.glob("run-*"))
    settings = RunSettings(preview_every=200, checkpoint_every=100)
    body = {**REQUEST, "training_data_url": str(data)}
    return start(T2A, parse(T2A.request, body), settings, folder / f"run-{number}", progress, stop)
