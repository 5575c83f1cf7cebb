"""The metrics of a run on their way to its log and to whoever follows it."""

from __future__ import annotations

from typing import Any

from sonolora.core.progress import Progress
from sonolora.runs.artifacts import RunArtifacts


class MetricsLog:
    """Opened at the step that training continues from. `evaluated`: the steps whose evaluation is in the log."""

    def __init__(self, artifacts: RunArtifacts, step: int, progress: Progress) -> None:
        self._artifacts, self._progress = artifacts, progress
        artifacts.begin_metrics(step)
        self.evaluated = {line["step"] for line in artifacts.metrics() if "train_eval_loss" in line}

    def add(self, step: int, **values: Any) -> None:
        """Log what was measured at a step."""
        self._artifacts.add_metrics(step, values)
        self._progress.metrics(step, values)
