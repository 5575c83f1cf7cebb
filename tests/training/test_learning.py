"""Every mode learns: its LoRA beats the base on held-out clips, by an interval that is checked against theory.

The data is made, and goes down the product's road from files to examples. `bench/learning` has the larger runs, and
`tests/bench/test_learning_on_sound.py` a small one of what can be heard.
"""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from experiment import Plan, learn, make_encoder, prepare
from losses import zero_velocity

from sonolora.conditioning import Example
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.training.trainer import TrainingConfig
from sonolora.training.validation import eval_losses, paired_difference, paired_grids

CPU = torch.device("cpu")
PLAN = Plan(train_clips=16, held_out_clips=8, unrelated=0, seconds=1.0, rank=8)
RANK = PLAN.rank
# Words and references are judged by what is heard in tests/bench, every mode by its training clips in tests/runs.
IN_CI = ("audio-inpaint", "audio-extend-prefix")


def train(mode, **config):
    """Held-out clips, and their losses with the base and with a LoRA trained on the others."""
    base = find_base("tiny")
    data = prepare(mode, make_encoder(mode, base, CPU), PLAN)
    model, adapters = learn(mode, base, data.training_examples, RANK, TrainingConfig(seed=0, **config), CPU)
    return data.held_out_examples, *paired_grids(model, adapters, data.held_out_examples, CPU)


@pytest.mark.parametrize(
    "mode",
    [pytest.param(mode, id=name, marks=[] if name in IN_CI else pytest.mark.slow) for name, mode in MODES.items()],
)
def test_the_lora_beats_the_base_on_held_out_clips(mode):
    config = {"steps": 120, "learning_rate": 1e-3} if mode.video else {"steps": 60, "learning_rate": 2e-3}
    held_out, base, lora = train(mode, sigma_density="published", **config)
    assert paired_difference(base, lora).high < 0
    assert paired_difference(zero_velocity(held_out).expand_as(lora), lora).high < 0


def test_adapters_that_do_not_learn_do_not_pass():
    _, base, lora = train(MODES["t2a"], steps=2, learning_rate=0.0)
    found = paired_difference(base, lora)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_paired_grids_are_of_the_base_and_of_the_file(transformer, cases):
    examples = [Example(cases["audio_latents"][:1], cases["audio_context"][:1])]
    alone = eval_losses(transformer, examples, CPU)
    adapters = add_adapters(transformer, AUDIO_TARGETS, RANK, seed=0)
    for name, adapter in adapters.items():
        adapter.scale = 0.5
        with torch.no_grad():
            adapter.lora_B.copy_(0.1 * normal(tuple(adapter.lora_B.shape), name))
    exact = eval_losses(transformer, examples, CPU)
    base, lora = paired_grids(transformer, adapters, examples, CPU)
    assert torch.equal(base, alone)
    assert not torch.equal(lora, exact), "the file rounds to bfloat16"
    torch.testing.assert_close(lora, exact, rtol=0.01, atol=0)
    assert torch.equal(eval_losses(transformer, examples, CPU), exact), "the adapters are as they were"


def test_the_interval_is_that_of_normal_theory():
    """For many normal clips the bootstrap of the mean gives mean +- 1.96 standard errors."""
    clips = 400
    before = normal((clips, 4), "before")
    effect = -0.3 + normal((clips, 1), "effect").expand(-1, 4)
    found = paired_difference(before, before + effect)
    error = effect[:, 0].std().item() / clips**0.5
    reach = NormalDist().inv_cdf(0.975) * error
    assert found.mean == pytest.approx(effect.mean().item(), abs=1e-5)
    assert found.low == pytest.approx(found.mean - reach, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + reach, abs=0.15 * error)


def test_the_clips_are_what_is_resampled():
    """Noise levels that all say the same of a clip must not make the interval narrower."""
    effect = normal((10, 1), "effect")
    one = paired_difference(torch.zeros(10, 1), effect)
    many = paired_difference(torch.zeros(10, 16), effect.expand(-1, 16))
    assert many == one
    assert one.low < one.mean < one.high


def test_grids_of_other_clips_cannot_be_paired():
    with pytest.raises(ValueError, match="same two or more clips"):
        paired_difference(torch.zeros(3, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="same two or more clips"):
        paired_difference(torch.zeros(1, 4), torch.zeros(1, 4))
