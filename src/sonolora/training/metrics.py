"""The lines of `metrics.jsonl`: one JSON object each, appended during training.

A line has `step` and some of: `loss` (mean since the previous such line, or since training continued),
`learning_rate`, `steps_per_second`, `gradient_norm` (of the newest step, before it is clipped), `data_wait_share` (of
the time, spent on a step's inputs), `achieved_tflops` (of matrix products and attention, counted), `peak_memory_gb` (on
CUDA); and at evaluations `train_eval_loss` (of training clips with fixed noise and noise levels),
`train_eval_loss_by_sigma` and what docs/evaluation.md lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_RENAMED = {"grid_loss": "train_eval_loss", "grid_loss_by_sigma": "train_eval_loss_by_sigma"}  # by version 0.1


def metrics_line(step: int, values: Mapping[str, Any]) -> str:
    """One line. ValueError for values that are not finite, which JSON cannot represent."""
    return json.dumps({"step": step, **values}, allow_nan=False) + "\n"


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """All lines under their present names; without those that are cut off or damaged."""
    return [
        {_RENAMED.get(name, name): value for name, value in line.items()}
        for _, line in map(_parsed, _lines(text))
        if line
    ]


def until_step(text: str, step: int) -> str:
    """The text without the lines of later steps and the damaged ones."""
    return "".join(f"{line}\n" for line in _lines(text) if _parsed(line)[0] <= step)


def _lines(text: str) -> list[str]:
    return text.split("\n")  # and not splitlines, which knows more ends of a line than JSON lines have


def _parsed(line: str) -> tuple[float, dict[str, Any]]:
    """Step and content; a damaged line counts as later than all."""
    try:
        values = json.loads(line)
        return float(values["step"]), values
    except (ValueError, TypeError, KeyError):
        return float("inf"), {}
