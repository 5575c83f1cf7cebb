"""The engine, on the golden model: a step's mathematics, exact continuation, and a loss that really falls."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sonolora.conditioning import Example, Video, velocity
from sonolora.core.checked_tensors import save_checked
from sonolora.core.errors import CheckpointError, DamagedFileError
from sonolora.core.randomness import normal
from sonolora.cuda_graph import CudaGraphStep
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.memory import device_constants as constants
from sonolora.ltx.model.transformer import load_transformer
from sonolora.training.loss import flow_losses
from sonolora.training.state import load_state, save_state
from sonolora.training.state_writer import StateWriter
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import eval_losses

CPU = torch.device("cpu")
IDENTITY = {"identity_version": "2", "base": "b", "dataset": "d", "settings": "s"}


def make_examples(cases, count=3):
    """Clips of one kind: a pattern that repeats in time with a little variation."""
    pattern = normal((1, 1, 32), "pattern")
    return [
        Example(pattern + 0.1 * normal((1, 26, 32), "clip", index), cases["audio_context"][:1])
        for index in range(count)
    ]


def save(path, trainer):
    save_state(path, trainer.state(), trainer.step_count, trainer.layout, IDENTITY)


@pytest.fixture
def make_trainer(checkpoint, cases):
    def make(steps=30, rank=8, seed=1, rate=2e-3, batch_size=1, **options):
        model = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
        adapters = add_adapters(model, AUDIO_TARGETS, rank, seed)
        config = TrainingConfig(steps=steps, learning_rate=rate, seed=seed, batch_size=batch_size)
        return Trainer(model, adapters, make_examples(cases), config, **options), model

    return make


def test_loss_is_the_mean_over_regenerated_frames(transformer, cases):
    example = Example(cases["audio_latents"], cases["audio_context"], keep_BT=cases["keep"].bool())
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    sigma = torch.tensor([0.3, 0.8])
    found = flow_losses(transformer, example, noise, sigma)
    noisy = torch.lerp(example.latents_BTC, noise, sigma[:, None, None])
    predicted = velocity(transformer, example, noisy, sigma)
    for index in range(2):
        counted = ~example.keep_BT[index]
        wanted = (predicted - (noise - example.latents_BTC))[index][counted].square().mean()
        torch.testing.assert_close(found[index], wanted)


def test_kept_frames_do_not_see_the_noise(transformer, cases):
    example = Example(cases["audio_latents"], cases["audio_context"], keep_BT=cases["keep"].bool())
    sigma = torch.tensor([0.5, 0.5])
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    other = torch.where(example.keep_BT[..., None], 100.0, noise)
    torch.testing.assert_close(
        flow_losses(transformer, example, noise, sigma), flow_losses(transformer, example, other, sigma)
    )


def test_a_reference_has_an_effect_and_no_frames_in_the_result(transformer, cases):
    example = Example(cases["audio_latents"], cases["audio_context"])
    with_reference = dataclasses.replace(example, reference_BRC=normal((2, 9, 32), "reference"))
    sigma = torch.tensor([0.5, 0.5])
    plain = velocity(transformer, example, example.latents_BTC, sigma)
    referred = velocity(transformer, with_reference, example.latents_BTC, sigma)
    assert plain.shape == referred.shape
    assert (plain - referred).abs().max() > 1e-3


def test_frozen_video_gives_the_publishers_velocity(checkpoint, cases):
    model = load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)
    video = Video(cases["video_latents"], cases["video_positions"].mean(-1), cases["video_context"])
    example = Example(cases["audio_latents"], cases["audio_context"], video=video)
    found = velocity(model, example, cases["audio_latents"], cases["v2a_frozen_video.audio_sigma"])
    torch.testing.assert_close(found, cases["v2a_frozen_video.audio_velocity"], atol=1e-5, rtol=1e-5)


def test_first_step_starts_from_the_unchanged_base(make_trainer, transformer, cases):
    trainer, model = make_trainer()
    example = make_examples(cases)[0]
    args = (example, normal((1, 26, 32), "noise"), torch.tensor([0.5]))
    assert torch.equal(flow_losses(model, *args), flow_losses(transformer, *args))
    trainer.step()
    assert not torch.equal(flow_losses(model, *args), flow_losses(transformer, *args))


def test_training_lowers_the_loss_on_the_fixed_grid(make_trainer, cases):
    trainer, model = make_trainer(steps=120)
    examples = make_examples(cases)
    before = eval_losses(model, examples, CPU)
    for _ in range(120):
        trainer.step()
    after = eval_losses(model, examples, CPU)
    assert (after < before).all(), "every clip at every noise level must have improved"
    assert after.mean() < 0.7 * before.mean()


def test_only_the_adapters_change(make_trainer):
    trainer, model = make_trainer()
    frozen = {name: value.clone() for name, value in model.named_parameters() if name != "adapter_values"}
    trainer.step()
    for name, value in model.named_parameters():
        if name in frozen:
            assert torch.equal(value, frozen[name]), name


def test_a_step_on_static_inputs_is_the_same_to_the_bit(make_trainer):
    """Three clips in turn: inputs that stayed what they were at the first step would be seen."""
    (eager, _), (static, _) = make_trainer(), make_trainer(graph=CudaGraphStep())
    losses = [trainer.step() for _ in range(6) for trainer in (eager, static)]
    assert all(map(torch.equal, losses[::2], losses[1::2]))
    assert len({loss.item() for loss in losses}) == 6
    wanted, found = eager.state(), static.state()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_gradients_are_gone_before_the_forward_pass(make_trainer):
    trainer, model = make_trainer()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = []
    model.register_forward_pre_hook(lambda *_: held.append(sum(parameter.grad is not None for parameter in trained)))
    trainer.step()
    assert all(parameter.grad is not None for parameter in trained)
    trainer.step()
    assert held == [0, 0]


@pytest.mark.parametrize("static", [False, True])
def test_what_a_trainer_holds_is_free_with_its_last_reference(make_trainer, static):
    """And does not wait, with all its memory, for the next search for cycles."""
    make_trainer()[0].step()  # what torch imports with the first of all keeps that one
    gc.disable()
    try:
        trainer, model = make_trainer(graph=CudaGraphStep() if static else None)
        trainer.step()
        left = [weakref.ref(trainer), weakref.ref(model)]
        del trainer, model
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()


class HostTensors(TorchDispatchMode):
    """Counts tensors made from data of the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


def test_a_step_takes_nothing_from_the_host_but_its_inputs(make_trainer):
    trainer, _ = make_trainer()
    inputs = trainer._inputs(0)
    constants._cached.cache_clear()
    with HostTensors() as first:
        trainer._compute(*inputs)
    trainer._compute(*inputs)  # after the first, in which the optimiser makes its state
    with HostTensors() as later:
        trainer._compute(*inputs)
    assert first.count > 0
    assert later.count == 0


@pytest.mark.parametrize("batch_size", [1, 5])  # of three clips
def test_resumed_training_equals_uninterrupted_training_to_the_bit(make_trainer, tmp_path, batch_size):
    whole, _ = make_trainer(batch_size=batch_size)
    for _ in range(12):
        whole.step()
    first, _ = make_trainer(batch_size=batch_size)
    for _ in range(5):
        first.step()
    save(tmp_path / "state.safetensors", first)
    second, _ = make_trainer(batch_size=batch_size)
    load_state(tmp_path / "state.safetensors", second, [IDENTITY])
    assert second.step_count == 5
    for _ in range(7):
        second.step()
    wanted, found = whole.state(), second.state()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert torch.equal(value, found[name]), name


@pytest.fixture
def state(make_trainer, tmp_path):
    """The file of a state after one step."""
    trainer, _ = make_trainer()
    trainer.step()
    save(tmp_path / "state.safetensors", trainer)
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize("key", ["base", "dataset", "settings"])
def test_a_state_of_another_run_is_refused(make_trainer, state, key):
    with pytest.raises(CheckpointError, match=f"its {key} is"):
        load_state(state, make_trainer()[0], [{**IDENTITY, key: "other"}])


def test_a_state_is_compared_in_the_form_of_its_version(make_trainer, state):
    old = {"base": "other", "dataset": "other", "settings": "other"}
    load_state(state, make_trainer()[0], [old, IDENTITY])
    with pytest.raises(CheckpointError, match="a newer version"):
        load_state(state, make_trainer()[0], [old])


def test_a_state_of_another_rank_is_refused(make_trainer, state):
    with pytest.raises(CheckpointError, match="another rank"):
        load_state(state, make_trainer(rank=16)[0], [IDENTITY])


@pytest.mark.parametrize("damage", ["cut", "header", "values"])
def test_a_damaged_state_is_an_error(make_trainer, state, damage):
    content = bytearray(state.read_bytes())
    if damage == "cut":
        del content[-100:]
    else:
        content[{"header": 20, "values": -100}[damage]] ^= 1
    state.write_bytes(content)
    with pytest.raises(DamagedFileError, match="is damaged"):
        load_state(state, make_trainer()[0], [IDENTITY])


def test_every_example_is_used_once_an_epoch(make_trainer):
    trainer, _ = make_trainer()
    drawn = [trainer._index(draw) for draw in range(12)]
    for epoch in range(4):
        assert sorted(drawn[3 * epoch : 3 * epoch + 3]) == [0, 1, 2]
    assert [trainer._index(draw) for draw in range(12)] == drawn, "also when it goes back"


def test_inputs_that_are_copied_ahead_are_those_of_the_step(make_trainer, monkeypatch):
    """With streams that do nothing; also when a step is not the one that was copied."""
    for name in ("Stream", "stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.Tensor, "record_stream", MagicMock())
    (plain, _), (ahead, _) = make_trainer(steps=6), make_trainer(steps=6)
    ahead._prefetches = True
    for _ in range(3):
        assert torch.equal(plain.step(), ahead.step())
    state = plain.state()
    plain.load_state(state, 1)
    ahead.load_state(state, 1)
    for _ in range(2):
        assert torch.equal(plain.step(), ahead.step())
    waits = torch.cuda.current_stream().wait_event
    assert waits.call_count == 3, "the first step and the one that was gone back to were not copied ahead"


def test_on_a_card_a_state_is_copied_by_a_stream_of_its_own(make_trainer, monkeypatch):
    """After the steps before it and before the next one, and whoever asks for it waits for the copy."""
    trainer, _ = make_trainer()
    trainer.step()
    expected, cuda = trainer.state(), MagicMock()
    for name in ("Stream", "stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    trainer._device, trainer._host_state = torch.device("cuda"), None
    copied = trainer.begin_state()
    calls = [name.rpartition(".")[2] for name, *_ in cuda.mock_calls]
    order = ["wait_stream", "__enter__", "record", "__exit__", "wait_event"]
    assert [name for name in calls if name in order] == order
    cuda.Event().synchronize.assert_not_called()
    assert all(torch.equal(one, expected[name]) for name, one in copied().items())
    cuda.Event().synchronize.assert_called_once()


def test_a_state_of_matrices_by_name_is_continued(make_trainer, tmp_path):
    """As earlier versions wrote it, and as a model with another layout wrote it."""
    trainer, _ = make_trainer()
    trainer.step()
    state, matrices = trainer.state(), trainer._adapters.matrices
    by_name = {
        name + ("" if part == "adapters" else f".{part}"): one
        for part, flat in state.items()
        for name, one in matrices(flat).items()
    }
    save_checked(tmp_path / "old.safetensors", by_name, {**IDENTITY, "step": "1"})
    reversed_names = list(reversed(trainer.layout))
    turned = {
        part: torch.cat([matrices(flat)[name].flatten() for name in reversed_names]) for part, flat in state.items()
    }
    layout = {name: trainer.layout[name] for name in reversed_names}
    save_state(tmp_path / "turned.safetensors", turned, 1, layout, IDENTITY)
    for file in ("old", "turned"):
        other, _ = make_trainer(seed=2)
        load_state(tmp_path / f"{file}.safetensors", other, [IDENTITY])
        assert all(torch.equal(one, state[name]) for name, one in other.state().items())


def test_states_are_written_beside_training(make_trainer):
    """What is written is the state at the call, and an error of the thread is raised by the next call."""
    trainer, _ = make_trainer()
    release, written = threading.Event(), []

    def write(step, tensors):
        assert release.wait(10)
        written.append((step, {name: one.clone() for name, one in tensors.items()}))
        if step == 2:
            raise OSError("full")

    with StateWriter(trainer, write) as writer:
        trainer.step()
        expected = {name: one.clone() for name, one in trainer.state().items()}
        writer.save()
        assert writer.busy
        trainer.step()
        release.set()
        writer.save()
        with pytest.raises(OSError, match="full"):
            writer.finish()
        assert not writer.busy
    assert [step for step, _ in written] == [1, 2]
    assert all(torch.equal(one, expected[name]) for name, one in written[0][1].items())


def test_learning_rate_falls_linearly_to_a_tenth():
    config = TrainingConfig(steps=100, learning_rate=1.0, seed=0)
    assert config.learning_rate_at(0) == 1
    assert config.learning_rate_at(50) == pytest.approx(0.55)
    assert config.learning_rate_at(100) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"sigma_density": "gaussian"}])
def test_a_config_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least 1|not one of"):
        TrainingConfig(**{"steps": 1, "learning_rate": 1.0, "seed": 0, **wrong})
