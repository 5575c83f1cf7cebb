"""Silence: nothing, or what a quiet room has left."""

from __future__ import annotations

import numpy as np

from sounds.kind import Facts, Kind, Rng, Samples, samples_in
from sounds.shaped import coloured, tilt


def silence(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count = samples_in(seconds)
    if rng.integers(3) == 0:
        return np.zeros((2, count)), {"silence": "complete silence"}
    sides = [coloured(rng, count, tilt(rng.uniform(-5, 0))) for _ in range(2)]
    return np.stack(sides), {"silence": "near silence"}


KINDS = (
    Kind(
        "silence",
        silence,
        ("{silence}", "{silence}, nothing happens", "a quiet recording, {silence}"),
        sustained=True,
        bare=True,
        peak_dbfs=(-75.0, -55.0),
    ),
)
