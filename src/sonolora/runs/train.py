"""The training part of a run: from prepared data to the LoRA, its previews and its metrics.

In: a `Run`, its `Prepared` data and the networks. Out: artifacts; or `InterruptedRunError` and a state to continue
from, when the run was asked to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from sonolora.core.cancellation import CancelToken, InterruptedRunError, StopRequestedError
from sonolora.core.progress import Progress
from sonolora.core.tensor_file import save_tensors
from sonolora.cuda_graph import CudaGraphStep, CudaGraphSteps
from sonolora.data.prepared import Prepared
from sonolora.ltx.lora.adapters import add_adapters, begin_with, lora_tensors
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import CONFIG, FROM_LORA, LORA, PREVIEW, RunDeletedError
from sonolora.runs.evaluation.evaluate import Evaluator
from sonolora.runs.evaluation.evaluation import Evaluation
from sonolora.runs.evaluation.metrics_log import MetricsLog
from sonolora.runs.evaluation.metrics_sinks import MetricsSink, open_sinks
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.lora_metadata import lora_config, lora_metadata
from sonolora.runs.preview_columns import preview_columns
from sonolora.runs.report.finish import put_finish
from sonolora.runs.run import Run
from sonolora.runs.training_inputs import frozen_model, newest_state, placed_data
from sonolora.runs.training_loop import TrainingLoop
from sonolora.sampling.preview import joined
from sonolora.training.state import load_state, save_state
from sonolora.training.state_writer import StateWriter
from sonolora.training.trainer import Trainer, TrainingConfig

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
        preserve=settings.preserve,
    )
    with frozen_model(run, networks) as model:
        prepared = placed_data(run, prepared, networks, progress, cancel)
        adapters = add_adapters(model, run.mode.lora_targets, request.rank, settings.seed)
        graph, graphs = None, None
        if settings.cuda_graph:
            graph, graphs = CudaGraphStep(warn=progress.warning), CudaGraphSteps(progress.warning)
        device = networks.device
        foreign = [text.to(device) for text in prepared.foreign]
        trainer = Trainer(model, adapters, prepared.examples, config, graph=graph, foreign=foreign)
        columns = preview_columns(run.base, request, settings)
        evaluation = Evaluation(run, prepared, model, adapters, device)
        load = partial(load_state, trainer=trainer, identities=identities)
        if (kept := newest_state(artifacts, load, progress)) is not None:
            evaluation.load(kept)
            progress.message(f"continuing from step {trainer.step_count}")
        elif FROM_LORA in artifacts:
            begin_with(adapters, open_lora(artifacts.path(FROM_LORA)))
        log = MetricsLog(artifacts, trainer.step_count, progress, sinks)
        evaluator = Evaluator(
            run, prepared, networks.codec, model, adapters, log, progress, cancel, device, columns, evaluation, graphs
        )
        if settings.stop_early and not prepared.held_out.examples:
            progress.warning(f"--stop-early has no effect: {prepared.held_out.note}")

        def write(step: int, tensors: Mapping[str, Tensor]) -> None:
            write_file = partial(save_state, tensors=tensors, step=step, layout=trainer.layout, identity=identities[0])
            artifacts.put_state(step, write_file, keep=settings.keep_checkpoints)

        with StateWriter(trainer, write, evaluation.state) as writer:
            loop = TrainingLoop(run, trainer, evaluator, log, progress, cancel, writer)
            try:
                loop.take_steps()
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
                    evaluation.add_previews(previews)
                    evaluator.put_strengths(last, previews)
            except StopRequestedError:
                loop.save()
                writer.finish()
                raise InterruptedRunError(run.folder, trainer.step_count, config.steps) from None
    put_finish(run, time.monotonic() - began, progress.warning)
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
