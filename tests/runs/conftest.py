"""A small dataset and the request that trains on it."""

from __future__ import annotations

import numpy as np
import pytest

from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio

RATE = 16000


def tone(seconds, pitch, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * pitch * time) * np.exp(-3 * time)
    return Waveform(np.stack([samples, 0.8 * samples]).astype(np.float32), rate)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Four clips of 0.6 s with captions, and one that is too short."""
    folder = tmp_path_factory.mktemp("clips")
    for index, extension in enumerate((".wav", ".flac", ".mp3", ".m4a")):
        write_audio(folder / f"clip{index}{extension}", tone(0.6, 300 + 100 * index))
        (folder / f"clip{index}.txt").write_text(f"a tone, number {index}")
    write_audio(folder / "short.wav", tone(0.2, 500))
    return folder


@pytest.fixture
def body(dataset):
    return {
        "training_data_url": str(dataset),
        "rank": 8,
        "number_of_steps": 100,
        "learning_rate": 0.002,
        "audio_duration_seconds": 0.5,
        "trigger_phrase": "t0ne",
    }
