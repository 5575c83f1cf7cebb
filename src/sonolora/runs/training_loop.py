"""The steps of a run, with the states, metrics and evaluations that are due between them.

In: a `Trainer`, its evaluator, and where metrics and states go. Out: all steps taken, the last state being written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolora.core.cancellation import CancelToken
from sonolora.core.errors import SonoloraError
from sonolora.core.progress import Progress
from sonolora.runs.artifacts import METRICS
from sonolora.runs.evaluate import Evaluator
from sonolora.runs.metrics_log import MetricsLog
from sonolora.runs.run import Run
from sonolora.training.state_writer import StateWriter
from sonolora.training.trainer import Trainer

LOG_EVERY = 10
EVALUATION_SHARE = 0.05  # of the training time: what evaluations between the first and the last may take by default


@dataclass
class TrainingLoop:
    """`clock` gives seconds. States are due by the time spent in training, without that of evaluations."""

    run: Run
    trainer: Trainer
    evaluator: Evaluator
    log: MetricsLog
    progress: Progress
    cancel: CancelToken
    writer: StateWriter
    clock: Callable[[], float] = time.monotonic

    def take_steps(self) -> None:
        """Take all steps that remain. Raises `StopRequestedError` between two, and `SonoloraError` on divergence."""
        trainer, steps = self.trainer, self.trainer.config.steps
        losses: list[Tensor] = []
        self._began = self._saved = self.clock()
        self._evaluating = 0.0  # seconds, since training began here
        self._evaluate_if_due()
        self._begin_phase()
        self.cancel.check()
        since = trainer.step_count, self.clock()
        while trainer.step_count < steps:
            losses.append(trainer.step())
            step = trainer.step_count
            if step % LOG_EVERY == 0 or step == steps:
                self._log(losses, *since)
                losses, since = [], (step, self.clock())
            if step == steps or self._state_is_due():
                self.save()
            if self._evaluate_if_due():
                self._begin_phase()
                since = since[0], self.clock()
            self.cancel.check()

    def save(self) -> None:
        """Begin to write a state. Raises `SonoloraError` when its numbers are not finite."""
        if not self.trainer.is_finite():
            raise self._diverged()
        self.writer.save()
        self._saved = self.clock()

    def _state_is_due(self) -> bool:
        settings = self.run.settings
        if settings.checkpoint_every is not None:
            return self.trainer.step_count % settings.checkpoint_every == 0
        return self.clock() - self._saved >= settings.checkpoint_seconds and not self.writer.busy

    def _begin_phase(self) -> None:
        self.progress.phase("training", self.trainer.config.steps)
        self.progress.advance(to=self.trainer.step_count)

    def _evaluate_if_due(self) -> bool:
        """Not at the last step: then the LoRA is written first."""
        step, settings = self.trainer.step_count, self.run.settings
        due = (
            step % settings.preview_steps == 0
            and step < self.trainer.config.steps
            and step not in self.log.evaluated
            and (step == 0 or settings.preview_every is not None or self._there_is_time())
        )
        if due:
            began = self.clock()
            self.evaluator.evaluate(step)
            took = self.clock() - began
            self._saved += took
            if step > 0:
                self._evaluating += took
            else:
                self._began += took
        return due

    def _there_is_time(self) -> bool:
        """Whether an evaluation as long as the last one is within the share of the time that all may take."""
        took = self.evaluator.seconds[-1] if self.evaluator.seconds else 0.0
        training = self.clock() - self._began - self._evaluating
        return self._evaluating + took <= EVALUATION_SHARE * training

    def _log(self, losses: list[Tensor], since_step: int, since_time: float) -> None:
        # Besides `is_finite` the only place where the host waits for the device.
        loss, step = torch.cat(losses).mean().item(), self.trainer.step_count
        if not math.isfinite(loss):
            raise self._diverged()
        self.log.add(
            step,
            loss=loss,
            learning_rate=self.trainer.config.learning_rate_at(step - 1),
            steps_per_second=round((step - since_step) / max(self.clock() - since_time, 1e-9), 2),
        )
        self.progress.remaining(self.evaluator.seconds_to_come(step))
        self.progress.advance(f"loss {loss:.3f}", to=step)

    def _diverged(self) -> SonoloraError:
        run = self.run
        return SonoloraError(
            f"training diverged: by step {self.trainer.step_count} its numbers are no longer finite. Start again with "
            f"a learning_rate below {run.request.learning_rate:g}; {run.artifacts.path(METRICS)} shows how the loss "
            "grew"
        )
