"""`metrics.jsonl`: one JSON object a line, appended as a run goes on.

Lines have `step` and some of: `loss` (mean since the last such line), `learning_rate`, `steps_per_second`,
`grid_loss` (on the fixed grid), `grid_loss_by_sigma`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sonolora.files import OutputError


class Metrics:
    """The log of one run. Opened at a step, it first drops lines of later steps: those will be done again."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        self._write("".join(f"{line}\n" for line in kept), "w")

    def add(self, step: int, **values: Any) -> None:
        """Append a line."""
        self._write(json.dumps({"step": step, **values}) + "\n", "a")

    def _write(self, text: str, how: str) -> None:
        try:
            with self._path.open(how) as file:
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
