"""The density that training draws its noise levels from.

In: the number of target frames and a key of randomness. Out: sigma in [0, 1].
`published` is the publisher's shifted logit-normal, whose shift is a line in the number of tokens, extrapolated
below its first anchor (1,024), as audio always is. `clamped` ends that line at its anchors. `matched` draws from where
the sampler goes: each of its steps is equally likely, and every level within a step. `uniform` is there to compare
with. Source of the first: facts of the published trainer, version 1.2.0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch

from sonolora.core.randomness import generator
from sonolora.sampling.noise_schedule import sampling_sigmas
from sonolora.training.sigma_densities import SIGMA_DENSITIES

_ANCHORS = ((1024, 0.95), (4096, 2.05))
SIGMA_MIN = 1e-3
_UNIFORM_SHARE = 0.1
_SAMPLING_STEPS = 30  # of the published pipelines
# Normal quantiles of 0.5 % and 99.9 %: what lies between them is stretched over [0, 1].
_LOW_QUANTILE, _HIGH_QUANTILE = -2.5758, 3.0902


def shift(tokens: int) -> float:
    """Mean of the normal variable under the sigmoid, for a sequence of `tokens`."""
    (x0, y0), (x1, y1) = _ANCHORS
    return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _published(tokens: int, draw: torch.Generator) -> float:
    return _shifted_logit_normal(shift(tokens), draw)


def _clamped(tokens: int, draw: torch.Generator) -> float:
    (least, _), (most, _) = _ANCHORS
    return _shifted_logit_normal(shift(min(max(tokens, least), most)), draw)


def _shifted_logit_normal(mean: float, draw: torch.Generator) -> float:
    normal = torch.randn((), generator=draw).item()
    low, high = _sigmoid(mean + _LOW_QUANTILE), _sigmoid(mean + _HIGH_QUANTILE)
    sigma = (_sigmoid(mean + normal) - low) / (high - low)
    if sigma < SIGMA_MIN:
        sigma = 2 * SIGMA_MIN - sigma
    choice, uniform = torch.rand(2, generator=draw).tolist()
    if choice < _UNIFORM_SHARE:
        return SIGMA_MIN + (1 - SIGMA_MIN) * float(uniform)
    return min(max(sigma, 0.0), 1.0)


def _sampler_matched(tokens: int, draw: torch.Generator) -> float:  # noqa: ARG001 - one signature for all densities
    choice, within = torch.rand(2, generator=draw).tolist()
    levels = _sampling_levels()
    step = int(choice * (len(levels) - 1))
    return levels[step] + float(within) * (levels[step + 1] - levels[step])


@functools.cache
def _sampling_levels() -> tuple[float, ...]:
    return tuple(sampling_sigmas(_SAMPLING_STEPS).tolist())


def _uniform(tokens: int, draw: torch.Generator) -> float:  # noqa: ARG001 - one signature for all densities
    return SIGMA_MIN + (1 - SIGMA_MIN) * torch.rand((), generator=draw).item()


DENSITIES: Mapping[str, Callable[[int, torch.Generator], float]] = dict(
    zip(SIGMA_DENSITIES, (_published, _clamped, _sampler_matched, _uniform), strict=True)
)


def draw_sigma(density: str, tokens: int, *key: int | str) -> float:
    """One noise level, a pure function of the key."""
    return DENSITIES[density](tokens, generator(*key))
