"""The training part of a run: from prepared data to the LoRA, its previews and its metrics.

In: a `Run`, its `Prepared` data and the networks. Out: artifacts; or `InterruptedRunError` and a state to continue
from, when the run was asked to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sonolora.core.cancellation import CancelToken, InterruptedRunError, StopRequestedError
from sonolora.core.errors import DamagedFileError, SonoloraError
from sonolora.core.progress import Progress
from sonolora.core.tensor_file import save_tensors
from sonolora.cuda_graph import CudaGraphStep, CudaGraphSteps
from sonolora.data.prepared import Prepared
from sonolora.ltx.lora.adapters import add_adapters, lora_tensors
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import CONFIG, LORA, METRICS, PREVIEW, RunArtifacts, RunDeletedError
from sonolora.runs.cached_video import cache_videos
from sonolora.runs.evaluate import Evaluator
from sonolora.runs.evaluation import Evaluation
from sonolora.runs.example_placement import place_examples
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.lora_metadata import lora_config, lora_metadata
from sonolora.runs.metrics_log import MetricsLog
from sonolora.runs.metrics_sinks import MetricsSink, open_sinks
from sonolora.runs.run import Run
from sonolora.sampling.preview import joined
from sonolora.training.state import load_state, save_state
from sonolora.training.step_phases import flop_counter
from sonolora.training.trainer import Trainer, TrainingConfig

LOG_EVERY = 10
WORSE = 1.01  # times the loss before training; the evaluation itself varies by far less


def train(run: Run, prepared: Prepared, networks: Networks, progress: Progress, cancel: CancelToken) -> Path:
    """Train to the end, from the newest state if there is one; returns the LoRA file's path.

    Raises `InterruptedRunError` when asked to stop: between two steps, or while previews are rendered, which is done
    again when the run continues. Raises `SonoloraError` when training diverges; earlier states stay.
    """
    try:
        with open_sinks(run.settings.log_to, run.folder) as sinks:
            return _train(run, prepared, networks, progress, cancel, sinks)
    except StopRequestedError:  # before the first step: there is nothing to save
        step = max((step for step, _ in run.artifacts.states()), default=0)
        raise InterruptedRunError(run.folder, step, run.request.number_of_steps) from None


def _train(
    run: Run,
    prepared: Prepared,
    networks: Networks,
    progress: Progress,
    cancel: CancelToken,
    sinks: Sequence[MetricsSink],
) -> Path:
    began = time.monotonic()
    request, settings, artifacts = run.request, run.settings, run.artifacts
    identities = run.record.identities(prepared.digest)
    config = TrainingConfig(
        steps=request.number_of_steps,
        learning_rate=request.learning_rate,
        seed=settings.seed,
        batch_size=settings.batch_size,
        sigma_density=run.sigma_density,
    )
    one_way = settings.one_way_video
    with networks.transformer(video=run.mode.video and not one_way, one_way=one_way, policy=settings.policy) as model:
        if one_way:
            prepared = cache_videos(run, prepared, networks, progress, cancel)
        else:
            prepared = place_examples(run, prepared, networks.device, progress)
        adapters = add_adapters(model, run.mode.lora_targets, request.rank, settings.seed)
        graph, graphs = None, None
        if settings.cuda_graph:
            graph, graphs = CudaGraphStep(warn=progress.warning), CudaGraphSteps(progress.warning)
        trainer = Trainer(model, adapters, prepared.examples, config, graph=graph)
        device = networks.device
        evaluation = Evaluation(run, prepared, model, adapters, device)
        if (kept := _load_newest_state(artifacts, trainer, identities, progress)) is not None:
            evaluation.load(kept)
            progress.message(f"continuing from step {trainer.step_count}")
        log = MetricsLog(artifacts, trainer.step_count, progress, sinks)
        evaluator = Evaluator(
            run, prepared, networks.codec, model, adapters, log, progress, cancel, device, evaluation, graphs
        )
        if settings.stop_early and not prepared.held_out.examples:
            progress.warning(f"--stop-early has no effect: {prepared.held_out.note}")

        def save() -> None:
            if not trainer.is_finite():
                raise _diverged(run, trainer.step_count)
            write = partial(save_state, trainer=trainer, identity=identities[0], evaluation=evaluation.state())
            artifacts.put_state(trainer.step_count, write, keep=settings.keep_checkpoints)

        try:
            _TrainingLoop(run, trainer, evaluator, log, progress, cancel, save).take_steps()
            last = trainer.step_count
            evaluation.measure(last)
            metadata = lora_metadata(run, prepared) | {"steps": str(last)}
            if (best := evaluation.best_tensors()) is not None:
                metadata["steps"] = str(evaluation.best_step())
            artifacts.put(LORA, partial(save_tensors, tensors=best or lora_tensors(adapters), metadata=metadata))
            artifacts.put_json(CONFIG, lora_config(run, metadata))
            evaluation.finish(last)
            if previews := evaluator.evaluate(last):
                artifacts.put(PREVIEW, partial(write_wav, waveform=joined(previews)))
        except StopRequestedError:
            save()
            raise InterruptedRunError(run.folder, trainer.step_count, config.steps) from None
    progress.message(f"trained and written in {time.monotonic() - began:.0f} s")
    _warn_if_worse(run, last, progress)
    if LORA not in artifacts:
        raise RunDeletedError
    return artifacts.path(LORA)


def _warn_if_worse(run: Run, steps: int, progress: Progress) -> None:
    """Than the base was, on clips of the training data."""
    losses = {line["step"]: line["train_eval_loss"] for line in run.artifacts.metrics() if "train_eval_loss" in line}
    if losses.get(steps, 0.0) > WORSE * losses.get(0, math.inf):
        progress.warning(
            f"training made it worse: train_eval_loss rose from {losses[0]:.4g} at step 0 to {losses[steps]:.4g} at "
            f"step {steps}. Train again with a learning_rate below {run.request.learning_rate:g}"
        )


def _load_newest_state(
    artifacts: RunArtifacts, trainer: Trainer, identities: Sequence[Mapping[str, str]], progress: Progress
) -> dict[str, Tensor] | None:
    """What was kept beside it; None where there is no state.

    A damaged one is set aside for the one before it; if there is none, its error is raised.
    """
    states = artifacts.states()
    for older, (step, name) in reversed(list(enumerate(states))):
        try:
            return load_state(artifacts.path(name), trainer, identities)
        except DamagedFileError as error:
            if not older:
                raise DamagedFileError(
                    f"{error}. It is the only state: remove it, and the run starts again at step 0"
                ) from error
            artifacts.set_aside(name)
            progress.warning(f"{error}. It is set aside, and training continues from the state before step {step}")
    return None


@dataclass
class _TrainingLoop:
    """All steps that remain, with the states, metrics and evaluations that are due between them."""

    run: Run
    trainer: Trainer
    evaluator: Evaluator
    log: MetricsLog
    progress: Progress
    cancel: CancelToken
    save: Callable[[], None]
    tflop: float | None = None  # of a step, counted at the first one

    def take_steps(self) -> None:
        trainer, config, settings = self.trainer, self.trainer.config, self.run.settings
        losses: list[Tensor] = []
        self._evaluate_if_due()
        self._begin_phase()
        self.cancel.check()
        since = trainer.step_count, time.monotonic()
        while trainer.step_count < config.steps and not self.evaluator.evaluation.is_over():
            losses.append(self._step())
            step = trainer.step_count
            last = step == config.steps
            if step % LOG_EVERY == 0 or last:
                self._log(losses, *since)
                losses, since = [], (step, time.monotonic())
            if step % settings.checkpoint_every == 0 or last:
                self.save()
            if self._evaluate_if_due():
                self._begin_phase()
                since = since[0], time.monotonic()
            self.cancel.check()

    def _step(self) -> Tensor:
        """One step; the arithmetic of the first one is counted, where it is not compiled."""
        if self.tflop is not None or self.run.settings.compile:
            return self.trainer.step()
        with flop_counter() as counter:
            losses = self.trainer.step()
        self.tflop = counter.get_total_flops() / 1e12
        return losses

    def _begin_phase(self) -> None:
        self.progress.phase("training", self.trainer.config.steps)
        self.progress.advance(to=self.trainer.step_count)

    def _evaluate_if_due(self) -> bool:
        """Not at the last step: then the LoRA is written first."""
        step, evaluation = self.trainer.step_count, self.evaluator.evaluation
        with_previews = step % self.run.settings.preview_every == 0
        due = (with_previews or step % evaluation.every == 0) and step < self.trainer.config.steps
        if due and step in self.log.evaluated:  # in the state it need not be: that was saved before
            evaluation.measure(step)
            return False
        if due:
            self.evaluator.evaluate(step, with_previews=with_previews)
        return due

    def _log(self, losses: list[Tensor], since_step: int, since_time: float) -> None:
        # The only place where the host waits for the device.
        loss, step = torch.cat(losses).mean().item(), self.trainer.step_count
        if not math.isfinite(loss):
            raise _diverged(self.run, step)
        seconds = max(time.monotonic() - since_time, 1e-9)
        waited, self.trainer.input_seconds = self.trainer.input_seconds, 0.0
        device = self.evaluator.device
        rates = {} if self.tflop is None else {"achieved_tflops": round(self.tflop * (step - since_step) / seconds, 4)}
        if device.type == "cuda":
            rates["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        self.log.add(
            step,
            loss=loss,
            learning_rate=self.trainer.config.learning_rate_at(step - 1),
            steps_per_second=round((step - since_step) / seconds, 2),
            gradient_norm=self.trainer.gradient_norm.item(),
            data_wait_share=round(min(1.0, waited / seconds), 4),
            **rates,
        )
        self.progress.remaining(self.evaluator.seconds_to_come(step))
        self.progress.advance(f"loss {loss:.3f}", to=step)


def _diverged(run: Run, step: int) -> SonoloraError:
    return SonoloraError(
        f"training diverged: by step {step} its numbers are no longer finite. Start again with a learning_rate below "
        f"{run.request.learning_rate:g}; {run.artifacts.path(METRICS)} shows how the loss grew"
    )
