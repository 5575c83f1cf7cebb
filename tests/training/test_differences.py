"""Intervals of differences hold what they promise: for few recordings, and whatever is not independent."""

from __future__ import annotations

import pytest
import torch

from sonolora.core.randomness import normal
from sonolora.training.differences import Difference, difference, difference_of_means, student_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 9, 2.262), (0.9975, 3, 7.453)],
)
def test_students_quantiles_are_those_of_the_tables(probability, freedom, quantile):
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize(("clips", "confidence"), [(2, 0.95), (4, 0.95), (4, 0.99), (16, 0.95)])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(clips, confidence):
    trials = 150
    held = 0
    for trial in range(trials):
        found = difference(0.3 + normal((clips,), "trial", clips, trial), range(clips), confidence)
        held += found.low <= 0.3 <= found.high
    error = (confidence * (1 - confidence) / trials) ** 0.5
    assert held / trials >= confidence - 3 * error


def test_clips_of_one_recording_do_not_make_it_narrower():
    effect = normal((6,), "effect")
    alone = difference(effect, range(6))
    copies = difference(effect.repeat(10), [*range(6)] * 10)
    assert (copies.mean, copies.low, copies.high) == pytest.approx((alone.mean, alone.low, alone.high), abs=1e-6)


def test_of_a_single_recording_there_is_no_interval():
    assert difference(torch.tensor([-0.5, -0.25]), [3, 3]) == Difference(-0.375, None, None)
    alone = difference_of_means(torch.tensor([1.0]), torch.tensor([0.0, 0.0]), ([0], [1, 2]))
    assert (alone.mean, alone.low, alone.above_zero, alone.below_zero) == (1, None, False, False)


def test_means_of_different_clips_are_compared_with_the_spread_of_both():
    one, other = 1 + 0.1 * normal((12,), "one"), 0.1 * normal((8,), "other")
    found = difference_of_means(one, other, (range(12), range(8)))
    assert found.above_zero and found.low < 1 < found.high
    assert found == difference_of_means(one, other, (range(12), range(8))), "keyed"
    less_sure = difference_of_means(one, other, (range(12), range(8)), 0.99)
    assert less_sure.low < found.low and less_sure.high > found.high
