"""What the losses of held-out and training clips say: each status by made losses, and by what was known at the time."""

from __future__ import annotations

import math

import pytest
import torch

from sonolora.core.randomness import normal
from sonolora.training.evaluation import History, changes, judge

LOOKS = 6


def history(held_out, training, clips=6, spread=0.02):
    """Losses that change by these logarithms at steps 0, 100, 200, ...; clips differ in level, a little in change."""
    made = History(range(10, 18), range(clips))
    for step, (a, b) in enumerate(zip(training, held_out, strict=True)):
        parts = []
        for name, count, change in (("training", 8, a), ("held out", clips, b)):
            base = normal((count, 4), name).exp()
            own = change * (1 + spread * normal((count, 1), name, "change"))
            own = own + 0.004 * (step > 0) * normal((count, 1), name, "noise", step)
            parts.append(base * own.exp())
        made.add(100 * step, *parts)
    return made


@pytest.mark.parametrize(
    ("held_out", "training", "status", "best"),
    [
        ((0, -0.1, -0.2, -0.3), (0, -0.1, -0.25, -0.35), "learning", 3),
        ((0, -0.1, -0.2, -0.195, -0.195), (0, -0.1, -0.2, -0.2, -0.2), "plateau", 2),
        ((0, -0.1, -0.2, -0.1), (0, -0.1, -0.3, -0.5), "memorising", 2),
        ((0, 0.004, 0.004, 0.004), (0, -0.3, -0.6, -0.9), "memorising", None),
        ((0, -0.1, 0.05, 0.2), (0, -0.1, -0.6, -0.9), "memorising", 1),
        ((0, -0.1, 0.2, 0.3), (0, -0.3, 0.1, 0.15), "worse", 1),
        ((0, 0.01, 0.1), (0, 0.1, 0.2), "worse", None),
    ],
)
def test_status(held_out, training, status, best):
    made = history(held_out, training)
    found = judge(made, len(held_out) - 1, LOOKS)
    assert (found.status, found.best) == (status, best)
    assert found.clear == (best is not None)
    assert found.change.mean == pytest.approx(held_out[-1], abs=0.01)
    assert found.gap.mean == pytest.approx(held_out[-1] - training[-1], abs=0.03)


def test_a_healthy_run_that_learns_more_of_its_own_clips_is_not_called_memorising():
    """The gap is clear of zero and grows; but what is learnt still holds for other sounds."""
    made = history((0, -0.1, -0.2, -0.25), (0, -0.2, -0.4, -0.6))
    found = judge(made, 3, LOOKS)
    assert found.gap.above_zero
    assert found.status == "learning"


@pytest.mark.parametrize("clips", [1, 2])
def test_of_too_few_recordings_nothing_is_claimed(clips):
    found = judge(history((0, -0.1, -0.2), (0, -0.1, -0.2), clips=clips, spread=0.5), 2, LOOKS)
    assert found.status == "open" and not found.clear


def test_more_looks_ask_for_more():
    made = history((0, -0.1), (0, -0.1), clips=4, spread=0.45)
    assert judge(made, 1, 1).clear and not judge(made, 1, 1000).clear


def test_chance_is_rarely_called_anything():
    """40 runs of 6 looks each at changes around zero: with intervals for a single look a quarter would be called."""
    called = 0
    for run in range(40):
        made = History(range(10, 18), range(8))
        for step in range(LOOKS + 1):
            losses = [(0.1 * normal((8, 4), name, run, step) * (step > 0)).exp() for name in ("training", "held out")]
            made.add(step, *losses)
        found = [judge(made, index, LOOKS) for index in range(1, LOOKS + 1)]
        called += any(one.status != "open" or one.clear for one in found)
    assert called <= 6


def test_the_base_and_a_run_without_held_out_clips_are_not_judged():
    made = history((0, -0.1), (0, -0.1))
    assert judge(made, 0, LOOKS) is None
    alone = History(range(8), ())
    for _ in range(2):
        alone.add(0, torch.ones(8, 4), torch.empty(0, 4))
    assert judge(alone, 1, LOOKS) is None and alone.best() is None


def test_a_judgement_knows_nothing_of_later_evaluations():
    whole = history((0, -0.1, -0.2, -0.1), (0, -0.1, -0.3, -0.5))
    until = history((0, -0.1, -0.2), (0, -0.1, -0.3))
    assert judge(whole, 2, LOOKS) == judge(until, 2, LOOKS)


def test_history_goes_through_a_state():
    made = history((0, -0.1, -0.2), (0, -0.1, -0.2))
    read = History(made.training_recordings, made.held_out_recordings)
    read.load(made.tensors())
    assert read.steps == made.steps and judge(read, 2, LOOKS) == judge(made, 2, LOOKS)
    assert (read.best(), read.since_best()) == (2, 0)
    empty = History((), ())
    empty.load(empty.tensors())
    assert empty.steps == []


def test_levels_that_are_not_measured_do_not_count():
    base = torch.tensor([[1.0, math.nan], [math.nan, 2.0]])
    assert changes(base, 0.5 * base).tolist() == pytest.approx([math.log(0.5)] * 2)
