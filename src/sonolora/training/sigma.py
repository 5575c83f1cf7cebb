"""The density that training draws its noise levels from.

In: the number of target frames and a key of randomness. Out: sigma in [0, 1].
`published` is the publisher's shifted logit-normal, whose shift is a line in the number of tokens, extrapolated
below its first anchor (1,024), as audio always is. `uniform` is there to compare with.
Source: facts of the published trainer, version 1.2.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from sonolora.randomness import generator

_ANCHORS = ((1024, 0.95), (4096, 2.05))
_LEAST = 1e-3
_UNIFORM_SHARE = 0.1
# Normal quantiles of 0.5 % and 99.9 %: what lies between them is stretched over [0, 1].
_LOW_QUANTILE, _HIGH_QUANTILE = -2.5758, 3.0902


def shift(tokens: int) -> float:
    """Mean of the normal variable under the sigmoid, for a sequence of `tokens`."""
    (x0, y0), (x1, y1) = _ANCHORS
    return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _published(tokens: int, draw: torch.Generator) -> float:
    mean = shift(tokens)
    normal = torch.randn((), generator=draw).item()
    low, high = _sigmoid(mean + _LOW_QUANTILE), _sigmoid(mean + _HIGH_QUANTILE)
    sigma = (_sigmoid(mean + normal) - low) / (high - low)
    if sigma < _LEAST:
        sigma = 2 * _LEAST - sigma
    choice, uniform = torch.rand(2, generator=draw).tolist()
    if choice < _UNIFORM_SHARE:
        return _LEAST + (1 - _LEAST) * float(uniform)
    return min(max(sigma, 0.0), 1.0)


def _uniform(tokens: int, draw: torch.Generator) -> float:  # noqa: ARG001 - one signature for all densities
    return _LEAST + (1 - _LEAST) * torch.rand((), generator=draw).item()


DENSITIES: Mapping[str, Callable[[int, torch.Generator], float]] = {
    "published": _published,
    "uniform": _uniform,
}


def draw_sigma(density: str, tokens: int, *key: int | str) -> float:
    """One noise level, a pure function of the key."""
    return DENSITIES[density](tokens, generator(*key))
