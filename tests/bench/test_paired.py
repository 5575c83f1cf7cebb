"""Paired differences: the interval is checked against theory, and the losses are those of the base and of the file."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from paired import paired_difference, paired_eval_losses

from sonolora.conditioning import Example
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.training.validation import eval_losses

CPU = torch.device("cpu")


def test_paired_losses_are_of_the_base_and_of_the_file(transformer, cases):
    examples = [Example(cases["audio_latents"][:1], cases["audio_context"][:1])]
    alone = eval_losses(transformer, examples, CPU)
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    adapters.flat.data.add_(0.02 * normal(tuple(adapters.flat.shape), "values"))
    exact = eval_losses(transformer, examples, CPU)
    base, lora = paired_eval_losses(transformer, adapters, examples, CPU)
    assert torch.equal(base, alone)
    assert not torch.equal(lora, exact), "the file rounds to bfloat16"
    torch.testing.assert_close(lora, exact, rtol=0.01, atol=0)
    assert torch.equal(eval_losses(transformer, examples, CPU), exact), "the adapters are as they were"


def test_the_interval_is_that_of_normal_theory():
    """For many normal clips the bootstrap of the mean gives mean +- 1.96 standard errors."""
    clips = 400
    before = normal((clips, 4), "before")
    effect = -0.3 + normal((clips, 1), "effect").expand(-1, 4)
    difference = paired_difference(before, before + effect)
    error = effect[:, 0].std().item() / clips**0.5
    reach = NormalDist().inv_cdf(0.975) * error
    assert difference.mean == pytest.approx(effect.mean().item(), abs=1e-5)
    assert difference.low == pytest.approx(difference.mean - reach, abs=0.15 * error)
    assert difference.high == pytest.approx(difference.mean + reach, abs=0.15 * error)


def test_the_clips_are_what_is_resampled():
    """Noise levels that all agree on a clip must not make the interval narrower."""
    effect = normal((10, 1), "effect")
    one = paired_difference(torch.zeros(10, 1), effect)
    many = paired_difference(torch.zeros(10, 16), effect.expand(-1, 16))
    assert many == one
    assert one.low < one.mean < one.high


def test_losses_of_other_clips_cannot_be_paired():
    with pytest.raises(ValueError, match="same two or more clips"):
        paired_difference(torch.zeros(3, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="same two or more clips"):
        paired_difference(torch.zeros(1, 4), torch.zeros(1, 4))
