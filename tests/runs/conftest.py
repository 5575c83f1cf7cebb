"""A small dataset, the request that trains on it, and runs that are as short as wiring needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import Field, create_model
from run_support import Recorded, Silent, begin

from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.modes import MODES
from sonolora.planning import needs
from sonolora.planning.run_settings import RunSettings

CLIP_RATE = 16000
STEPS = 12
SETTINGS = RunSettings(device="cpu", checkpoint_every=4, preview_every=6)


@pytest.fixture(autouse=True, scope="module")
def _short_runs():
    """Here modes take fewer steps than the published minimum of 100, and previews are sampled in 4 steps.

    The minimum is a rule of the request and not of training: tests/modes holds it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, mode in MODES.items():
            steps = (int, Field(STEPS, ge=1, le=20000))
            request = create_model(f"Short{mode.request.__name__}", __base__=mode.request, number_of_steps=steps)
            patch.setitem(MODES, name, replace(mode, request=request))
        patch.setattr(needs, "PREVIEW_STEPS", 4)
        yield


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory, with_previews):
    """The folder of a whole run with previews and the debug archive."""
    folder = tmp_path_factory.mktemp("run") / "out"
    begin("t2a", {**with_previews, "debug_dataset": True}, SETTINGS, folder)
    return folder


@pytest.fixture
def settings():
    return SETTINGS


@pytest.fixture
def silent():
    return Silent()


@pytest.fixture
def recorded():
    return Recorded()
