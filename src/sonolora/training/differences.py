"""How much losses differ, with an interval that holds for other recordings of the kind.

In: losses of the same clips with two models, and which clips are of one recording. Out: a mean difference and its
interval. The interval is a percentile bootstrap over recordings, keyed, so that the same losses give the same interval.
A percentile interval is too narrow for few recordings. Both ends are moved away from the mean by the ratio of Student's
interval to the normal one, with n - 1 in the standard deviation (Hesterberg, "What teachers should know about the
bootstrap", 2015, describes the narrowness).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from sonolora.core.randomness import generator

CONFIDENCE = 0.95
_RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """A mean over clips and its interval; without ends where there are fewer than two recordings."""

    mean: float
    low: float | None
    high: float | None

    @property
    def above_zero(self) -> bool:
        """Clearly."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Clearly."""
        return self.high is not None and self.high < 0


def difference(values: Tensor, recordings: Sequence[int], confidence: float = CONFIDENCE) -> Difference:
    """The mean of differences (clips,) and its interval."""
    means = _resampled(values, recordings)
    return _interval(values.mean().item(), means, _widening([recordings], confidence), confidence)


def difference_of_means(
    one: Tensor, other: Tensor, recordings: tuple[Sequence[int], Sequence[int]], confidence: float = CONFIDENCE
) -> Difference:
    """Mean of `one` minus mean of `other`, of different clips, with its interval."""
    first, second = _resampled(one, recordings[0]), _resampled(other, recordings[1], part=1)
    resampled = None if first is None or second is None else first - second
    mean = one.mean().item() - other.mean().item()
    return _interval(mean, resampled, _widening(recordings, confidence), confidence)


def _resampled(values: Tensor, recordings: Sequence[int], part: int = 0) -> Tensor | None:
    """Means of resamples of whole recordings, each as often as it was drawn."""
    names = sorted(set(recordings))
    if len(names) < 2:
        return None
    members = torch.tensor([[float(one == name) for one in recordings] for name in names], dtype=torch.float64)
    sums, counts = members @ values.double(), members.sum(1)
    draws = torch.randint(len(names), (_RESAMPLES, len(names)), generator=generator(_SEED, "bootstrap", part))
    return sums[draws].sum(1) / counts[draws].sum(1)


def _interval(mean: float, resampled: Tensor | None, widening: float, confidence: float) -> Difference:
    if resampled is None:
        return Difference(mean, None, None)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=resampled.dtype)
    low, high = resampled.quantile(tails).tolist()
    return Difference(mean, mean + widening * (low - mean), mean + widening * (high - mean))


def _widening(recordings: Sequence[Sequence[int]], confidence: float) -> float:
    """Of the side with the fewest recordings."""
    count = min(len(set(groups)) for groups in recordings)
    if count < 2:
        return 1.0
    probability = (1 + confidence) / 2
    normal = NormalDist().inv_cdf(probability)
    return student_quantile(probability, count - 1) / normal * math.sqrt(count / (count - 1))


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile, above the median, of Student's t distribution; by bisection of its exact distribution function."""
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return high


def _student_cdf(t: float, freedom: int) -> float:
    """For t >= 0; the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(theta), math.cos(theta) ** 2
    term, total = (math.cos(theta), 0.0) if freedom % 2 else (1.0, 0.0)
    for index in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= square * index / (index + 1)
    area = 2 / math.pi * (theta + sine * total) if freedom % 2 else sine * total
    return (1 + area) / 2
