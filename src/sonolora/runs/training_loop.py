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
from sonolora.runs.evaluation.evaluate import Evaluator
from sonolora.runs.evaluation.metrics_log import MetricsLog
from sonolora.runs.run import Run
from sonolora.training.state_writer import StateWriter
from sonolora.training.step_phases import flop_counter
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
    tflop: float | None = None  # of a step, counted at the first one

    def take_steps(self) -> None:
        """Take all steps that remain. Raises `StopRequestedError` between two, and `SonoloraError` on divergence."""
        trainer, steps = self.trainer, self.trainer.config.steps
        losses: list[Tensor] = []
        changes: list[Tensor] = []  # of the base, in steps that keep it
        self._began = self._saved = self.clock()
        self._evaluating = 0.0  # seconds, since training began here
        self._evaluate_if_due()
        self._begin_phase()
        self.cancel.check()
        since = trainer.step_count, self.clock()
        while trainer.step_count < steps and not self.evaluator.evaluation.is_over():
            (changes if trainer.preserves(trainer.step_count) else losses).append(self._step())
            step = trainer.step_count
            if step % LOG_EVERY == 0 or step == steps:
                self._log(losses, changes, *since)
                losses, changes, since = [], [], (step, self.clock())
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
        step, settings, evaluation = self.trainer.step_count, self.run.settings, self.evaluator.evaluation
        if step == self.trainer.config.steps or not evaluation.is_due(step):
            return False
        if step in self.log.evaluated:  # but perhaps not in the state, which is saved before
            evaluation.measure(step)
            return False
        with_previews = step % settings.preview_steps == 0 and (
            step == 0 or settings.preview_every is not None or self._there_is_time()
        )
        began = self.clock()
        self.evaluator.evaluate(step, with_previews=with_previews)
        took = self.clock() - began
        self._saved += took
        if step == 0:
            self._began += took
        elif with_previews:
            self._evaluating += took
        return True

    def _step(self) -> Tensor:
        """One step; the arithmetic of the first one is counted, where it is not compiled."""
        if self.tflop is not None or self.run.settings.compile:
            return self.trainer.step()
        with flop_counter() as counter:
            losses = self.trainer.step()
        self.tflop = counter.get_total_flops() / 1e12
        return losses

    def _there_is_time(self) -> bool:
        """Whether an evaluation as long as the last one is within the share of the time that all may take."""
        took = self.evaluator.seconds[-1] if self.evaluator.seconds else 0.0
        training = self.clock() - self._began - self._evaluating
        return self._evaluating + took <= EVALUATION_SHARE * training

    def _log(self, losses: list[Tensor], changes: list[Tensor], since_step: int, since_time: float) -> None:
        # Besides `is_finite` the only place where the host waits for the device.
        step = self.trainer.step_count
        means = {
            name: torch.cat(some).mean().item()
            for name, some in (("loss", losses), ("preservation_loss", changes))
            if some
        }
        if not all(map(math.isfinite, means.values())):
            raise self._diverged()
        seconds = max(self.clock() - since_time, 1e-9)
        waited, self.trainer.input_seconds = self.trainer.input_seconds, 0.0
        device = self.evaluator.device
        rates = {} if self.tflop is None else {"achieved_tflops": round(self.tflop * (step - since_step) / seconds, 4)}
        if device.type == "cuda":
            rates["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        self.log.add(
            step,
            **means,
            learning_rate=self.trainer.config.learning_rate_at(step - 1),
            steps_per_second=round((step - since_step) / seconds, 2),
            gradient_norm=self.trainer.gradient_norm.item(),
            data_wait_share=round(min(1.0, waited / seconds), 4),
            **rates,
        )
        self.progress.remaining(self.evaluator.seconds_to_come(step))
        self.progress.advance(f"loss {means['loss']:.3f}" if losses else "", to=step)

    def _diverged(self) -> SonoloraError:
        run = self.run
        return SonoloraError(
            f"training diverged: by step {self.trainer.step_count} its numbers are no longer finite. Start again with "
            f"a learning_rate below {run.request.learning_rate:g}; {run.artifacts.path(METRICS)} shows how the loss "
            "grew"
        )
