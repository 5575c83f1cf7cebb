"""What the published endpoints charge for a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MIN_BILLED_STEPS = 100
# Dollars a training step, by mode. Source: the published pages of the endpoints.
PUBLISHED_PRICES: Mapping[str, float] = MappingProxyType(
    {
        "t2a": 0.0022,
        "a2a": 0.0023,
        "v2a": 0.0049,
        "audio-inpaint": 0.0023,
        "audio-extend-suffix": 0.0023,
        "audio-extend-prefix": 0.0022,
    }
)


def billed_steps(steps: int) -> int:
    """The billing units of a successful run."""
    return max(MIN_BILLED_STEPS, steps)
