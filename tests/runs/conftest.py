"""A small dataset and the request that trains on it; the embedded base, and steps to hold counts to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sonolora.allocations import Allocations
from sonolora.ltx.base import find_base
from sonolora.ltx.lora import add_adapters
from sonolora.media.audio import Waveform
from sonolora.media.write import write_audio
from sonolora.runs.counts import make_example, step_bytes, step_flops
from sonolora.runs.shapes import BaseShape
from sonolora.training.phases import flop_counter, marks
from sonolora.training.trainer import Trainer, TrainingConfig

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


@pytest.fixture(scope="session")
def base():
    return find_base("tiny")


@pytest.fixture(scope="session")
def shape(base):
    return BaseShape.of(base)


@pytest.fixture(scope="session")
def trainer_of(shape):
    """Makes the trainer of a step on the CPU, with one example."""

    def make(model, step):
        example = make_example(shape, step.tokens, torch.device("cpu"), torch.float32)
        adapters = add_adapters(model, step.targets, step.rank, 0)
        return Trainer(model, adapters, [example], TrainingConfig(5, 1e-4, 0))

    return make


@pytest.fixture(scope="session")
def takes_what_was_counted(shape, trainer_of):
    """Holds what is counted for a step to a real one of a model: what is kept for the backward pass, and FLOPs."""

    def check(model, step):
        trainer = trainer_of(model, step)
        trainer.step()
        with Allocations("cpu") as live:
            before, forward, *_ = marks(trainer, model, lambda: live.now, 1)
        assert forward - before == pytest.approx(step_bytes(shape, step, "cpu").activations, abs=4096)
        with flop_counter() as counter:
            trainer.step()
        assert counter.get_total_flops() == step_flops(shape, step, "cpu").whole

    return check
