"""A LoRA that has learnt can be heard: its sounds are nearer to those of a kind the base does not know than the base's.

A small version of bench/learning, by the same functions.
"""

from __future__ import annotations

import pytest
import torch
from experiment import Plan, base_alone, make_encoder, prepare, with_lora
from judge import FIGURES, LORA, judge, judge_sets

from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training.trainer import TrainingConfig

CPU = torch.device("cpu")


def heard(mode, held_out, **training):
    """So many held-out samples, and the sounds of base and LoRA for them."""
    usual = {"steps": 100, "learning_rate": 2e-3, "seed": 0, "sigma_density": mode.sigma_density}
    config = TrainingConfig(**usual | training)
    guidance = Guidance.of_base(find_base("tiny").checkpoint.metadata)
    plan = Plan(12, held_out, 0, 1.0, 16, config, SamplingSettings(6, guidance))
    encoder = make_encoder(mode, find_base("tiny"), CPU)
    data = prepare(mode, encoder, plan)
    outcomes = {LORA: with_lora(mode, encoder, data, plan, print), "base": base_alone(mode, encoder, data, plan, print)}
    return data.held_out, {name: [(sound,) for sound in outcome.held_out] for name, outcome in outcomes.items()}


@pytest.mark.slow
def test_sounds_after_words_come_nearer_to_the_new_kind(embedding):
    samples, sounds = heard(MODES["t2a"], 20)
    _, base = judge_sets(samples, sounds, [embedding])
    assert base.beaten, base


@pytest.mark.slow
def test_a_transformation_is_learnt():
    _, base = judge(FIGURES["a2a"][:1], *heard(MODES["a2a"], 4, steps=50))
    assert base.beaten, base


@pytest.mark.slow
def test_a_lora_that_has_not_learnt_makes_the_sounds_of_the_base():
    _, base = judge(FIGURES["a2a"][:1], *heard(MODES["a2a"], 4, steps=1, learning_rate=0.0))
    assert base.beaten is None
    assert base.margin.mean == 0
