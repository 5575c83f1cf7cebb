"""The pace of a training step: measured, extended from a few layers, or bounded."""

from __future__ import annotations

import torch

from sonolora.ltx.weights.base import find_base
from sonolora.modes.t2a import T2A
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench import pace
from sonolora.planning.bench.machine_limits import Limits
from sonolora.planning.bench.pace import measure_pace
from sonolora.planning.work_counts import Step, Tokens, step_flops

SLOW, FAST = Limits(1.0, 1.0), Limits(1e15, 1e15)


def test_pace_of_few_layers_is_near_that_of_all(monkeypatch):
    """Extended from two and four layers, against all six measured."""
    shape, cpu = BaseShape.of(find_base("tiny")), torch.device("cpu")
    monkeypatch.setattr(pace, "machine_limits", lambda *_: FAST)
    whole = measure_pace(shape, Step(T2A.lora_targets, 8, Tokens(126)), cpu)
    monkeypatch.setattr(pace, "_SMALL_BYTES", 0)
    extended = measure_pace(shape, Step(T2A.lora_targets, 8, Tokens(126)), cpu)
    assert "2 and 4 of the 6 layers" in extended.how
    assert 1 / 3 < extended.step / whole.step < 3  # on a machine with other work


def test_what_would_take_too_long_is_bounded(monkeypatch):
    shape = BaseShape.of(find_base("tiny"))
    monkeypatch.setattr(pace, "machine_limits", lambda *_: SLOW)
    monkeypatch.setattr(pace, "_LEAST_SPEED", 0)
    step = Step(T2A.lora_targets, 8, Tokens(14))
    result = measure_pace(shape, step, torch.device("cpu"))
    assert result.bound
    assert "not measured" in result.how
    assert result.step == step_flops(shape, step, "cpu").whole / SLOW.flops_per_second
