"""The forms in which the frozen base can hold its weights, by name. Light: the command reads it without torch."""

from __future__ import annotations

FULL = "full"  # as the checkpoint has them
WEIGHTS = (FULL, "int8", "fp8", "nf4")  # by growing error
