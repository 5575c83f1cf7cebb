"""Steps that keep the base: which they are, what they lower, and that nothing of the base's part of them is learnt."""

from __future__ import annotations

import pytest
import torch

from sonolora.conditioning import Example, Video, velocity, with_text
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.text.text_encoder import TextContext
from sonolora.training.preservation import is_preserving, preservation_losses
from sonolora.training.state import load_state, save_state
from sonolora.training.trainer import Trainer, TrainingConfig

CPU = torch.device("cpu")
IDENTITY = {"identity_version": "2", "base": "b", "dataset": "d", "settings": "s"}


def make_examples(cases):
    """Clips of one kind."""
    pattern = normal((1, 1, 32), "pattern")
    return [
        Example(pattern + 0.1 * normal((1, 26, 32), "clip", index), cases["audio_context"][:1]) for index in range(3)
    ]


@pytest.fixture
def foreign(cases):
    return [TextContext(-cases["audio_context"][:1], None), TextContext(cases["audio_context"][:1].flip(1), None)]


@pytest.fixture
def make_trainer(checkpoint, cases, foreign):
    def make(preserve, steps=30):
        model = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
        adapters = add_adapters(model, AUDIO_TARGETS, 8, 1)
        config = TrainingConfig(steps=steps, learning_rate=2e-3, seed=1, preserve=preserve)
        return Trainer(model, adapters, make_examples(cases), config, foreign=foreign), model, adapters

    return make


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_steps_are_spread_evenly_by_the_seed(share):
    chosen = [[is_preserving(share, seed, step) for step in range(400)] for seed in range(3)]
    for of_seed in chosen:
        assert abs(sum(of_seed) - 400 * share) <= 1
        assert all(abs(sum(of_seed[at : at + 40]) - 40 * share) <= 1 for at in range(360))


def test_the_loss_is_the_change_of_the_velocity(make_trainer, transformer, cases):
    trainer, model, adapters = make_trainer(0.0)
    example, noise, sigma = make_examples(cases)[0], normal((1, 26, 32), "noise"), torch.tensor([0.4])
    assert preservation_losses(model, adapters, example, noise, sigma).item() == 0
    trainer.step()
    values = adapters.flat.detach().clone()
    found = preservation_losses(model, adapters, example, noise, sigma)
    noisy = noise - 0.6 * velocity(transformer, example, noise, torch.ones(1))
    wanted = (velocity(model, example, noisy, sigma) - velocity(transformer, example, noisy, sigma)).square().mean()
    torch.testing.assert_close(found[0], wanted)
    assert torch.equal(adapters.flat.detach(), values), "they are back"


def test_with_it_other_captions_change_the_model_less(make_trainer, cases, foreign):
    changes = {}
    for share in (0.0, 0.5):
        trainer, model, adapters = make_trainer(share)
        while trainer.step_count < 16:
            trainer.step()
        others = [with_text(example, foreign[0].audio, None) for example in make_examples(cases)]
        noise, sigma = normal((1, 26, 32), "other noise"), torch.tensor([0.7])
        with torch.no_grad():
            changes[share] = sum(preservation_losses(model, adapters, one, noise, sigma).item() for one in others)
    assert changes[0.5] < 0.5 * changes[0.0]


def test_resuming_gives_the_same_adapters(make_trainer, tmp_path):
    whole, _, adapters = make_trainer(0.5, steps=6)
    for _ in range(3):
        whole.step()
    save_state(tmp_path / "state", whole.state(), whole.step_count, whole.layout, IDENTITY)
    resumed, _, others = make_trainer(0.5, steps=6)
    load_state(tmp_path / "state", resumed, [IDENTITY])
    for _ in range(3):
        assert torch.equal(whole.step(), resumed.step())
    assert torch.equal(adapters.flat, others.flat)


def test_it_needs_captions(make_trainer, cases):
    _, model, adapters = make_trainer(0.0)
    with pytest.raises(ValueError, match="foreign captions"):
        Trainer(model, adapters, make_examples(cases), TrainingConfig(3, 1e-3, 1, preserve=0.5))
    with pytest.raises(ValueError, match="below 1"):
        TrainingConfig(3, 1e-3, 1, preserve=1.0)


def test_a_video_gets_the_foreign_caption_too(checkpoint, cases):
    model = load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)
    adapters = add_adapters(model, AUDIO_TARGETS, 8, 1)
    video = Video(cases["video_latents"], cases["video_positions"].mean(-1), cases["video_context"])
    example = Example(cases["audio_latents"], cases["audio_context"], video=video)
    foreign = TextContext(-cases["audio_context"], -cases["video_context"])
    other = with_text(example, foreign.audio, foreign.video)
    assert torch.equal(other.video.context_BSD, foreign.video) and other.video.latents_BNC is video.latents_BNC
    trainer = Trainer(model, adapters, [example], TrainingConfig(4, 2e-3, 1, preserve=0.5), foreign=[foreign])
    kinds = [trainer.preserves(step) for step in range(4)]
    losses = [trainer.step().mean().item() for _ in kinds]
    assert sum(kinds) == 2
    for kind, loss in zip(kinds[1:], losses[1:], strict=True):
        assert 0 < loss < 0.1 if kind else loss > 0.1
