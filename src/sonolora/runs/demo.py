"""`sonolora demo`: teaches the base a sound that it does not know, and lets one hear the difference.

In: a folder. Out in it: `plasma.zip` (16 captioned clips in six formats), a run, and from it `before.wav`, `after.wav`,
`real.wav` and `comparison.png`. The road is that of any run.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonolora.analysis.likeness import descriptions, energy_distance
from sonolora.analysis.pictures import Row, draw_sounds
from sonolora.core.atomic_files import atomic_write, make_folder
from sonolora.core.progress import Progress
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_audio, write_wav
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.start import start
from sonolora.sampling.preview import joined, joints

CLIPS = 16
# `tiny` knows "high" and "low", and follows them. It knows numbers as well, but follows them poorly.
PROMPTS = ("a high plasma gun fires three times", "a low plasma gun fires three times")
REAL = 16  # clips to compare with, which are not trained on
TRIGGER = "pl4smagun"
FORMATS = (".wav", ".mp3", ".flac", ".ogg", ".aac", ".m4a")
SECONDS = 2.0
REQUEST: dict[str, Any] = {
    "trigger_phrase": TRIGGER,
    "rank": 16,
    "number_of_steps": 400,
    "learning_rate": 0.002,
    "audio_duration_seconds": SECONDS,
}
_RATE = 44100
_TIMES = ("once", "twice", "three times", "four times")


@dataclass(frozen=True)
class Demo:
    """What was made. `moved`: how much of the way from the base's sounds to the real ones the LoRA's are, at most 1."""

    run: Path
    lora: Path
    moved: float
    picture: Path


def plasma_gun(shots: int, high: bool, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Shots of a narrow band of noise that falls by four octaves or more, (samples,)."""
    sound = np.zeros(round((SECONDS + 0.2) * _RATE))
    pace = (SECONDS - 0.1) / shots
    count = round(min(pace * 0.9, rng.uniform(0.45, 0.6)) * _RATE)
    time = np.arange(count) / count
    hertz = (7500 if high else 2000) * np.exp(-rng.uniform(2.8, 3.3) * time)
    turns = np.cumsum(hertz) / _RATE
    for shot in range(shots):
        # Noise slower than the carrier makes a band of it, a third of an octave wide at first.
        knots = rng.normal(size=(2, count // 64 + 2))
        slow, quick = (np.interp(np.arange(count) / 64, np.arange(knots.shape[1]), row) for row in knots)
        burst = slow * np.cos(2 * np.pi * turns) + quick * np.sin(2 * np.pi * turns)
        at = round((0.02 + pace * shot) * _RATE)
        sound[at : at + count] += burst * np.minimum(1, 30 * np.minimum(time, 1 - time)) * np.exp(-2.5 * time)
    return sound


def clip(index: int) -> tuple[Waveform, str]:
    """Number `index`, from 0: a stereo sound and its caption. No two are alike."""
    rng = np.random.default_rng([7, index])
    shots, high = 1 + index % 4, index // 4 % 2 == 0
    sound = plasma_gun(shots, high, rng)
    side = rng.uniform(0.35, 0.65)
    stereo = np.stack([sound * (1 - side), sound * side])
    stereo *= 0.8 / np.abs(stereo).max()
    gun, times = f"a {'high' if high else 'low'} plasma gun", _TIMES[shots - 1]
    caption = f"{gun} fires {times}" if index % 16 < 8 else f"{times} {gun} is fired"
    return Waveform(stereo.astype(np.float32), _RATE), caption


def make_dataset(path: Path) -> None:
    """Write the zip of captioned clips."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for index in range(CLIPS):
            waveform, caption = clip(index)
            name = f"plasma{index + 1:02d}"
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / f"{name}{FORMATS[index % len(FORMATS)]}"
                write_audio(file, waveform)
                archive.write(file, file.name)
            archive.writestr(f"{name}.txt", caption)


def run_demo(folder: Path, progress: Progress, stop: Callable[[], bool]) -> Demo:
    """Make the data, train, and compare what the LoRA makes with what the base made, beside real sounds."""
    make_folder(folder)
    data = folder / "plasma.zip"
    progress.message(f"making {CLIPS} clips of a plasma gun in {len(FORMATS)} formats: {data}")
    make_dataset(data)
    run = folder / f"run-{1 + sum(1 for _ in folder.glob('run-*'))}"
    body = {
        **REQUEST,
        "training_data_url": str(data),
        "validation": [{"prompt": f"{TRIGGER} {prompt}"} for prompt in PROMPTS],
    }
    settings = RunSettings(seed=1, preview_every=REQUEST["number_of_steps"], checkpoint_every=100)
    lora = start(T2A, parse(T2A.request, body), settings, run, progress, stop)
    return _compare(folder, run, lora)


def _compare(folder: Path, run: Path, lora: Path) -> Demo:
    artifacts = RunArtifacts(run)
    before, after = (
        [decode_audio(artifacts.path(one.sound)).waveform for one in artifacts.previews() if one.kind == kind]
        for kind in ("base", "lora")
    )
    new = [clip(CLIPS + index) for index in range(REAL)]
    real = [next(waveform for waveform, caption in new if caption == prompt) for prompt in PROMPTS]
    sounds = {"before": joined(before), "after": joined(after), "real": joined(real)}
    for name, waveform in sounds.items():
        write_wav(folder / f"{name}.wav", waveform)
    titles = {
        "before": "before: the base alone",
        "after": "after: with the LoRA",
        "real": "real clips that it was not trained on",
    }
    picture = folder / "comparison.png"
    borders = tuple(joints(real))
    rows = [Row(titles[name], waveform, borders=borders) for name, waveform in sounds.items()]
    draw_sounds(picture, rows, " | ".join(PROMPTS))
    true = descriptions([waveform for waveform, caption in new if caption in PROMPTS])
    distances = [energy_distance(descriptions(made), true) for made in (before, after)]
    # The estimate is unbiased: of sets alike it may be below 0.
    return Demo(run, lora, 1 - max(0.0, distances[1]) / distances[0], picture)
