"""`metrics.jsonl`: one JSON object a line, appended as a run goes on.

Lines have `step` and some of: `loss` (mean since the last such line, or since the run went on), `learning_rate`,
`steps_per_second`, `grid_loss` (on the fixed grid), `grid_loss_by_sigma`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sonolora.core.atomic_files import OutputError, atomic_write


class Metrics:
    """The log of one run. Opened at a step, it first drops lines of later steps: those will be done again."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def add(self, step: int, **values: Any) -> None:
        """Append a line. ValueError for values that are not finite, which JSON cannot say."""
        text = json.dumps({"step": step, **values}, allow_nan=False) + "\n"
        try:
            with self._path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(self._path, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _step(line: str) -> float:
    """The line's step; a line that the power cut in two counts as later than all."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")
