"""What tests of several packages need: the golden model of the publisher's own code, the embedded base, tones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shallow_base import write_shallow_base
from torch import Tensor

from sonolora.core.threads import configure_threads
from sonolora.ltx.lora.adapters import add_stacked_adapters
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.text.text_encoder import Tokenizer, load_tokenizer
from sonolora.ltx.weights.base import BUILT_IN, find_base
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.media.audio import Waveform
from sonolora.planning.allocations import Allocations
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.work_counts import make_example, step_bytes, step_flops
from sonolora.training.step_phases import flop_counter, read_phases
from sonolora.training.trainer import Trainer, TrainingConfig

GOLDEN = Path(__file__).parent / "golden"
CPU = torch.device("cpu")

# Thousands of tests are many objects, none of them garbage: looking through them took a third of the collection's time.
gc.set_threshold(20_000, 20, 100)

# The models of the tests are too small for threads to pay, and two processes of tests that share two cores stall.
torch.set_num_threads(1)
configure_threads()  # of the processes that tests start


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(GOLDEN / "ltx23-golden.safetensors")


@pytest.fixture(scope="session")
def cases() -> dict[str, Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """That of the embedded base."""
    base = find_base("tiny")
    return load_tokenizer(base.checkpoint, base.text_encoder)


@pytest.fixture
def transformer(checkpoint: Checkpoint) -> Transformer:
    """The golden model's audio stream; a fresh one for each test, since tests put adapters on it."""
    return load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONOLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tones() -> Callable[..., Waveform]:
    """tones(440, 660, seconds=3.0, sample_rate=48_000, amplitude=0.4): one sine a channel."""

    def make(*hertz: float, seconds: float = 3.0, sample_rate: int = 48_000, amplitude: float = 0.4) -> Waveform:
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        samples = [amplitude * np.sin(2 * np.pi * frequency * time) for frequency in hertz]
        return Waveform(np.array(samples, dtype=np.float32), sample_rate)

    return make


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The first four layers of the embedded base: as few as what is counted with three is extrapolated to."""
    return find_base(str(write_shallow_base(BUILT_IN / "tiny", tmp_path_factory.mktemp("base") / "four", layers=4)))


@pytest.fixture(scope="session")
def shape(base):
    return BaseShape.of(base)


@pytest.fixture(scope="session")
def trainer_of(shape):
    """Makes the trainer of a step on the CPU, with one example."""

    def make(model, step):
        example = make_example(shape, step.tokens, torch.device("cpu"), torch.float32)
        adapters = add_stacked_adapters(model, step.targets, [step.rank] * step.members, 0)
        rates = [1e-4] * step.members
        return Trainer(model, adapters, [example], TrainingConfig(5, 1e-4, 0), learning_rates=rates)

    return make


@pytest.fixture(scope="session")
def takes_what_was_counted(shape, trainer_of):
    """Compares what is counted for a step with a real one: what is saved for the backward pass, and FLOPs."""

    def check(model, step):
        trainer = trainer_of(model, step)
        trainer.step()
        with Allocations("cpu") as live:
            before, forward, *_ = read_phases(trainer, model, lambda: live.now, 1)
        assert forward - before == pytest.approx(step_bytes(shape, step, "cpu").activations, abs=4096)
        with flop_counter() as counter:
            trainer.step()
        assert counter.get_total_flops() == step_flops(shape, step, "cpu").whole

    return check
