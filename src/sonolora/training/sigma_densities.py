"""The noise densities of training, by name. Light: the command reads it without torch; `noise.py` implements them."""

from __future__ import annotations

SIGMA_DENSITIES = ("published", "clamped", "matched", "uniform")
