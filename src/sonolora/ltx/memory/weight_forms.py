"""The forms in which the frozen base can hold its weights, by name. Light: the command reads it without torch."""

from __future__ import annotations

FULL = "full"  # as in the checkpoint
FLOAT8 = "fp8"
WEIGHTS = (FULL, "int8", FLOAT8, "nf4")  # by increasing error
