"""Every mode learns: its LoRA beats the base on held-out clips, by an interval that is checked against theory.

The data is made, and goes down the product's road from files to examples. `bench/learning` has the larger runs, and
`tests/bench/test_learning_on_sound.py` a small one that judges what is generated.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from experiment import Plan, learn, make_encoder, prepare
from losses import zero_velocity
from paired import paired_difference, paired_eval_losses

from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.training.trainer import TrainingConfig

CPU = torch.device("cpu")
PLAN = Plan(train_clips=16, held_out_clips=8, unrelated=0, seconds=1.0, rank=8)
# tests/bench judges words and references by what is generated, tests/runs has the training clips of v2a.
NOT_SLOW = ("audio-inpaint",)


@cache
def data_of(mode):
    """Two tests use those of one mode."""
    return prepare(mode, make_encoder(mode, find_base("tiny"), CPU), PLAN)


def train(mode, **config):
    """Held-out clips, and their losses with the base and with a LoRA trained on the others."""
    base, data = find_base("tiny"), data_of(mode)
    model, adapters = learn(mode, base, data.training_examples, PLAN.rank, TrainingConfig(seed=0, **config), CPU)
    return data.held_out_examples, *paired_eval_losses(model, adapters, data.held_out_examples, CPU)


@pytest.mark.parametrize(
    "mode",
    [pytest.param(mode, id=name, marks=[] if name in NOT_SLOW else pytest.mark.slow) for name, mode in MODES.items()],
)
def test_the_lora_beats_the_base_on_held_out_clips(mode):
    config = {"steps": 240, "learning_rate": 1e-3} if mode.video else {"steps": 60, "learning_rate": 2e-3}
    held_out, base, lora = train(mode, sigma_density="published", **config)
    assert paired_difference(base, lora).high < 0
    assert paired_difference(zero_velocity(held_out).expand_as(lora), lora).high < 0


def test_adapters_that_do_not_learn_do_not_pass():
    _, base, lora = train(MODES[NOT_SLOW[0]], steps=2, learning_rate=0.0)
    difference = paired_difference(base, lora)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
