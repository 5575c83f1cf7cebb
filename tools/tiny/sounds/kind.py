"""A kind of sound: a generator of clips and the sentences that describe them.

It takes a random generator and seconds and returns samples, (2, N) float64 at 48 kHz of any scale, and facts about this
clip: words that fill the sentences, and these numbers, where they apply:

    pitch_hz    the one pitch of the clip                     onsets   seconds at which events begin
    tempo_bpm   beats per minute                               count    number of audible events
    from_hz, to_hz   where a gliding pitch begins and ends
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

RATE = 48_000

Rng = np.random.Generator
Samples = NDArray[np.floating[Any]]  # float64 throughout; what FFTs return is typed no closer
Facts = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """One kind of sound. `captions` are format strings over the facts.

    `sustained`: it has no onset of its own, so cuts need fades. `bare`: a room or background noise would change it.
    """

    name: str
    make: Callable[[Rng, float], tuple[Samples, Facts]]
    captions: tuple[str, ...]
    sustained: bool = False
    bare: bool = False
    peak_dbfs: tuple[float, float] = (-24.0, -1.0)


def pick(rng: Rng, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """A number between `low` and `high`, log-uniformly distributed."""
    return float(low * (high / low) ** rng.random())


def samples_in(seconds: float) -> int:
    return round(seconds * RATE)


def time_of(count: int) -> Samples:
    """Seconds of each of `count` samples."""
    return np.arange(count) / RATE
