"""A small dataset, the request that trains on it, and runs that are as short as wiring needs."""

from __future__ import annotations

import numpy as np
import pytest
from run_support import STEPS, Recorded, Silent, begin, short_runs
from shallow_base import write_shallow_base

from sonolora.ltx.weights.base import BUILT_IN
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.planning.run_settings import RunSettings

CLIP_RATE = 16000


@pytest.fixture(autouse=True, scope="module")
def _short_runs():
    with short_runs():
        yield


@pytest.fixture(scope="session")
def shallow_base(tmp_path_factory):
    """The folder of a base with the first layer of `tiny`, in which wiring is tested."""
    return write_shallow_base(BUILT_IN / "tiny", tmp_path_factory.mktemp("base") / "shallow")


def tone(seconds, pitch, rate=CLIP_RATE):
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


@pytest.fixture(scope="session")
def short_body(dataset):
    return {
        "training_data_url": str(dataset),
        "rank": 8,
        "number_of_steps": STEPS,
        "learning_rate": 0.002,
        "audio_duration_seconds": 0.5,
        "trigger_phrase": "t0ne",
    }


@pytest.fixture
def body(short_body):
    return dict(short_body)


@pytest.fixture(scope="session")
def with_previews(short_body):
    return {**short_body, "validation": [{"prompt": "t0ne a tone, number 2"}, {"prompt": "t0ne a low tone"}]}


@pytest.fixture(scope="session")
def settings(shallow_base):
    return RunSettings(base=str(shallow_base), device="cpu", checkpoint_every=4, preview_every=6)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, with_previews, settings):
    """The folder of a whole run with previews and the debug archive."""
    folder = tmp_path_factory.mktemp("run") / "out"
    with short_runs():
        begin("t2a", {**with_previews, "debug_dataset": True}, settings, folder)
    return folder


@pytest.fixture
def silent():
    return Silent()


@pytest.fixture
def recorded():
    return Recorded()
