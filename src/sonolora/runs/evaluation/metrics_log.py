"""The metrics of a run on their way to its log, to whoever follows it, and to other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sonolora.core.progress import Progress
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.evaluation.metrics_sinks import MetricsSink, flat


class MetricsLog:
    """Opened at the step that training continues from. `evaluated`: the steps whose evaluation is in the log."""

    def __init__(
        self, artifacts: RunArtifacts, step: int, progress: Progress, sinks: Sequence[MetricsSink] = ()
    ) -> None:
        self._artifacts, self._progress, self._sinks = artifacts, progress, sinks
        artifacts.begin_metrics(step)
        self.evaluated = {line["step"] for line in artifacts.metrics() if "train_eval_loss" in line}

    def add(self, step: int, **values: Any) -> None:
        """Log what was measured at a step."""
        self._artifacts.add_metrics(step, values)
        self._progress.metrics(step, values)
        for sink in self._sinks:
            sink.log(step, flat(values))
