"""Several LoRAs trained at once on one base: each is what it would have been alone, to rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sonolora.conditioning import Example, Video
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, add_stacked_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.ltx.model.transformer import load_transformer
from sonolora.training.state import load_state, save_state
from sonolora.training.trainer import Trainer, TrainingConfig

CPU = torch.device("cpu")
CONFIG = TrainingConfig(steps=12, learning_rate=1e-3, seed=3)
RATES, RANKS = (1e-3, 3e-3, 2e-3), (8, 4, 6)
IDENTITY = {"identity_version": "2"}


@pytest.fixture
def examples(cases):
    """With everything that an audio mode can have: kept frames and a reference."""
    keep = torch.arange(26)[None] < 6
    return [
        Example(normal((1, 26, 32), "clip", index), cases["audio_context"][:1], keep, normal((1, 20, 32), "reference"))
        for index in range(2)
    ]


def model_of(checkpoint, **kind):
    return load_transformer(checkpoint, **{"video": False, **kind}, device=CPU, dtype=torch.float32)


def together(model, examples, targets=AUDIO_TARGETS):
    adapters = add_stacked_adapters(model, targets, RANKS, CONFIG.seed)
    return Trainer(model, adapters, examples, CONFIG, learning_rates=RATES), adapters


def alone(model, examples, member, targets=AUDIO_TARGETS):
    adapters = add_adapters(model, targets, RANKS[member], CONFIG.seed)
    return Trainer(model, adapters, examples, replace(CONFIG, learning_rate=RATES[member])), adapters


def same_as_alone(make_model, examples, targets, steps=4):
    """Train members together and alone; compares losses, gradients' norms and all factors."""
    trainer, adapters = together(make_model(), examples, targets)
    losses = torch.stack([trainer.step() for _ in range(steps)])
    norms = trainer.gradient_norm.clone()
    for member, row in enumerate(adapters.rows):
        solo, own = alone(make_model(), examples, member, targets)
        torch.testing.assert_close(losses[:, member], torch.cat([solo.step() for _ in range(steps)]), rtol=1e-4, atol=0)
        torch.testing.assert_close(norms[member], solo.gradient_norm[0], rtol=1e-3, atol=0)
        matrices = adapters.matrices(row.detach())
        for name, matrix in own.matrices(own.flat.detach()).items():
            padded = matrices[name].clone()
            inside = padded[: matrix.shape[0], : matrix.shape[1]]
            # Adam divides by the gradient's size: where that is rounding alone, the step is, too.
            assert (inside - matrix).norm() < 1e-2 * matrix.norm(), name
            inside.zero_()
            assert not padded.any(), "what pads a lower rank stays zero"


def test_members_learn_what_they_would_alone(checkpoint, examples):
    same_as_alone(lambda: model_of(checkpoint), examples, AUDIO_TARGETS)


def test_members_share_a_video(checkpoint, cases, examples):
    video = Video(cases["video_latents"][:1], cases["video_positions"].mean(-1)[:1], cases["video_context"][:1])
    plain = [Example(one.latents_BTC, one.context_BSD, video=video) for one in examples]
    targets = (*AUDIO_TARGETS, *VIDEO_TO_AUDIO_TARGETS)
    same_as_alone(lambda: model_of(checkpoint, video=True), plain, targets, steps=2)


def test_checkpointed_blocks_compute_the_same(checkpoint, examples):
    model = model_of(checkpoint)
    plain, _ = together(model, examples)
    expected = plain.step()
    other = model_of(checkpoint)
    other.checkpointed_blocks = len(other.transformer_blocks)
    recomputed, _ = together(other, examples)
    assert torch.equal(recomputed.step(), expected)
    assert torch.equal(recomputed.gradient_norm, plain.gradient_norm)


def test_members_continue_exactly(checkpoint, examples, tmp_path):
    whole, adapters = together(model_of(checkpoint), examples)
    for _ in range(3):
        whole.step()
    save_state(tmp_path / "state", whole.state(), whole.step_count, whole.layout, IDENTITY)
    whole.step()
    continued, others = together(model_of(checkpoint), examples)
    load_state(tmp_path / "state", continued, [IDENTITY])
    continued.step()
    assert continued.step_count == 4
    assert torch.equal(others.flat, adapters.flat)
