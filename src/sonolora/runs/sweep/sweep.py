"""A sweep: the members of a plan trained at once, the weaker half ended at each rung, and the LoRA of the best.

In: a `Run` with a plan, its data, the networks. Out: `lora.safetensors` with the settings of the best member,
`sweep.json` and `sweep.png`; or `InterruptedRunError` and a state to continue from. Each stage, from one rung to the
next, has a trainer of the members that are left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sonolora.core.cancellation import CancelToken, InterruptedRunError, StopRequestedError
from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.progress import Progress
from sonolora.core.tensor_file import save_tensors
from sonolora.data.prepared import Prepared
from sonolora.ltx.lora.adapters import add_stacked_adapters, lora_tensors, remove_adapters, rounded_to_bf16
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.planning.sweep_plan import SweepPlan
from sonolora.runs.artifacts import CONFIG, LORA, SWEEP, SWEEP_PICTURE, RunDeletedError
from sonolora.runs.evaluation.evaluation_record import percent
from sonolora.runs.evaluation.metrics_log import MetricsLog
from sonolora.runs.evaluation.metrics_sinks import MetricsSink, open_sinks
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.lora_metadata import lora_config, lora_metadata
from sonolora.runs.run import Run
from sonolora.runs.sweep.standings import DIVERGED, LOWER_RATES, Standings
from sonolora.runs.sweep.sweep_picture import draw_sweep
from sonolora.runs.training_inputs import frozen_model, newest_state, placed_data
from sonolora.training.members import state_of_members
from sonolora.training.state import load_state, read_kept, save_state
from sonolora.training.state_writer import StateWriter
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import ALL_LEVELS_UP_TO, MAX_HELD_OUT, SIGMAS, SIGNS, member_losses, spread

LOG_EVERY = 10
_MAX_EVALUATIONS = 16
_EVALUATIONS_SHARE = 0.06  # of the forward passes of all steps, a step counting as three


def require_held_out(prepared: Prepared) -> None:
    """Raise `InputError` when there are no held-out clips to compare the members on."""
    if not prepared.held_out.examples:
        why = prepared.held_out.note.split(". ")[0]
        raise InputError.of(
            "held_out",
            f"a sweep compares its members on held-out clips, but {why}. Give more clips or --held-out N",
        )


def sweep(run: Run, prepared: Prepared, networks: Networks, progress: Progress, cancel: CancelToken) -> Path:
    """Carry out the sweep, from the newest state if there is one; returns the path of the best LoRA.

    Raises `InterruptedRunError` when asked to stop, and `SonoloraError` when all members have diverged.
    """
    plan = run.sweep
    assert plan is not None
    began = time.monotonic()
    try:
        with open_sinks(run.settings.log_to, run.folder) as sinks, frozen_model(run, networks) as model:
            placed = placed_data(run, prepared, networks, progress, cancel)
            _Sweep(run, plan, placed, model, networks.device, sinks, progress, cancel).carry_out()
    except StopRequestedError:  # before the first step
        step = max((step for step, _ in run.artifacts.states()), default=0)
        raise InterruptedRunError(run.folder, step, run.request.number_of_steps, "sweep") from None
    progress.message(f"trained and written in {time.monotonic() - began:.0f} s")
    if LORA not in run.artifacts:
        raise RunDeletedError
    return run.artifacts.path(LORA)


@dataclass
class _Stage:
    """The members that train, between two rungs."""

    adapters: Adapters
    trainer: Trainer


class _Sweep:
    def __init__(
        self,
        run: Run,
        plan: SweepPlan,
        prepared: Prepared,
        model: Transformer,
        device: torch.device,
        sinks: Sequence[MetricsSink],
        progress: Progress,
        cancel: CancelToken,
    ) -> None:
        self._run, self._plan, self._prepared, self._model, self._device = run, plan, prepared, model, device
        self._sinks, self._progress, self._cancel = sinks, progress, cancel
        self._steps = run.request.number_of_steps
        self._identities = run.record.identities(prepared.digest)
        held_out = prepared.held_out
        chosen = spread(len(held_out.examples), MAX_HELD_OUT)
        self._examples = [held_out.examples[index] for index in chosen]
        self._recordings = [held_out.recordings[index] for index in chosen]
        self._foreign = [text.to(device) for text in prepared.foreign]
        self._every = run.settings.evaluate_every or self._interval()

    def _interval(self) -> int:
        passes = len(SIGMAS) * len(self._examples) * len(SIGNS) / (2 if self._alternate else 1)
        count = min(_MAX_EVALUATIONS, int(_EVALUATIONS_SHARE * 3 * self._steps / passes))
        return max(1, self._steps // max(1, count))

    @property
    def _alternate(self) -> bool:
        return len(self._examples) > ALL_LEVELS_UP_TO

    def carry_out(self) -> None:
        """All stages, then the outputs."""
        stage = newest_state(self._run.artifacts, self._load, self._progress)
        if stage is None:
            self.standings = Standings(self._plan, self._recordings, self._losses()[0])
            stage = self._stage()
        else:
            self._progress.message(f"continuing from step {stage.trainer.step_count}")
        self._log = MetricsLog(self._run.artifacts, stage.trainer.step_count, self._progress, self._sinks)
        self._logged = {line["step"] for line in self._run.artifacts.metrics() if "held_out_change" in line}
        while True:
            self._train(stage)
            left = self._plan.left_after(stage.trainer.step_count, self._steps)
            if stage.trainer.step_count == self._steps:
                break
            stage = self._narrow(stage, left)
        self._finish(stage)

    def _load(self, path: Path) -> _Stage:
        """The stage that a state is of."""
        self.standings = Standings.of(self._plan, self._recordings, read_kept(path))
        stage = self._stage()
        load_state(path, stage.trainer, self._identities)
        return stage

    def _stage(self) -> _Stage:
        """The members that train, as they begin."""
        remove_adapters(self._model)
        members = [self._plan.members[number] for number in self.standings.training]
        settings, rates = self._run.settings, [member.learning_rate for member in members]
        config = TrainingConfig(
            steps=self._steps,
            learning_rate=rates[0],
            seed=settings.seed,
            sigma_density=self._run.sigma_density,
            preserve=settings.preserve,
        )
        ranks = [member.rank for member in members]
        adapters = add_stacked_adapters(self._model, self._run.mode.lora_targets, ranks, settings.seed)
        trainer = Trainer(
            self._model, adapters, self._prepared.examples, config, learning_rates=rates, foreign=self._foreign
        )
        return _Stage(adapters, trainer)

    def _narrow(self, stage: _Stage, left: int) -> _Stage:
        """The stage after a rung."""
        old, standings = stage.trainer, self.standings
        before, standings.training = standings.training, standings.best_members(left)
        ended = [self._plan.members[number].name for number in before if number not in standings.training]
        self._progress.message(f"step {old.step_count}: {left} train on; ended: {'; '.join(ended)}")
        kept = [before.index(number) for number in standings.training]
        state, layout = old.state(), old.layout  # before the model's layers have the new adapters, of other ranks
        new = self._stage()
        new.trainer.load_state(state_of_members(state, layout, kept, new.trainer.layout), old.step_count)
        return new

    def _train(self, stage: _Stage) -> None:
        """Steps to the next rung or the end, with the evaluation there."""
        trainer, settings = stage.trainer, self._run.settings

        def write(step: int, tensors: Mapping[str, Tensor]) -> None:
            write_file = partial(
                save_state, tensors=tensors, step=step, layout=trainer.layout, identity=self._identities[0]
            )
            self._run.artifacts.put_state(step, write_file, keep=settings.keep_checkpoints)

        with StateWriter(trainer, write, self.standings.tensors) as writer:
            try:
                self._take_steps(stage, writer)
            except StopRequestedError:
                writer.save()
                writer.finish()
                raise InterruptedRunError(self._run.folder, trainer.step_count, self._steps, "sweep") from None

    def _take_steps(self, stage: _Stage, writer: StateWriter) -> None:
        trainer, standings, settings = stage.trainer, self.standings, self._run.settings
        self._begin_phase(trainer)
        saved, since, losses = time.monotonic(), (trainer.step_count, time.monotonic()), list[Tensor]()
        while True:
            step = trainer.step_count
            if self._is_due(step) and step not in standings.steps:
                self._evaluate(stage)
                self._begin_phase(trainer)
                since = since[0], time.monotonic()
            if step == self._steps or self._plan.left_after(step, self._steps) < len(standings.training):
                return
            self._cancel.check()
            losses.append(trainer.step())
            step = trainer.step_count
            if step % LOG_EVERY == 0 or step == self._steps:
                self._log_losses(step, losses, since)
                losses, since = [], (step, time.monotonic())
            by_steps = settings.checkpoint_every
            due = time.monotonic() - saved >= settings.checkpoint_seconds and not writer.busy
            if step % by_steps == 0 if by_steps is not None else due:
                writer.save()
                saved = time.monotonic()

    def _is_due(self, step: int) -> bool:
        return step > 0 and (step % self._every == 0 or step == self._steps or step in self._plan.rungs(self._steps))

    def _begin_phase(self, trainer: Trainer) -> None:
        self._progress.phase("training", self._steps)
        self._progress.advance(to=trainer.step_count)

    def _losses(self) -> Tensor:
        """(members, clips, sigmas)."""
        return member_losses(self._model, self._examples, self._device, alternate=self._alternate)

    def _evaluate(self, stage: _Stage) -> None:
        """With the values that the LoRA file would hold."""
        standings, step = self.standings, stage.trainer.step_count
        self._progress.phase(f"validating at step {step}", 1)
        with rounded_to_bf16(stage.adapters):
            standings.add(step, self._losses())
        self._progress.advance()
        best = standings.best()
        change = standings.against_base(best)
        values = {
            self._plan.members[number].name: round(standings.change(number, -1), 5)
            for number in standings.training
            if standings.change(number, -1) < float("inf")
        }
        if step not in self._logged:  # as it is where a state was saved before the evaluation of its step
            self._log.add(step, held_out_change=values)
        self._run.artifacts.put_json(SWEEP, standings.as_json(self._steps))
        text = "" if change is None else f" ({percent(change)} against the base)"
        self._progress.message(f"step {step}: best is {self._plan.members[best].name}{text}")

    def _log_losses(self, step: int, losses: Sequence[Tensor], since: tuple[int, float]) -> None:
        """The only place but evaluations where the host waits for the device."""
        means = torch.stack(list(losses)).mean(0)
        named = zip(self.standings.training, means.tolist(), means.isfinite().tolist(), strict=True)
        values = {self._plan.members[number].name: round(loss, 6) for number, loss, finite in named if finite}
        lowest = min(values.values(), default=None)
        if lowest is None:
            raise SonoloraError(f"{DIVERGED} by step {step}: {LOWER_RATES}")
        per_second = round((step - since[0]) / max(time.monotonic() - since[1], 1e-9), 2)
        self._log.add(step, loss=lowest, losses=values, steps_per_second=per_second)
        self._progress.advance(f"{len(means)} LoRAs, lowest loss {lowest:.3f}", to=step)

    def _finish(self, stage: _Stage) -> None:
        run, standings = self._run, self.standings
        number = standings.best()
        member = self._plan.members[number]
        own = {"learning_rate": member.learning_rate, "rank": member.rank}
        of_best = replace(run, request=run.request.model_copy(update=own))
        metadata = lora_metadata(of_best, self._prepared) | {"sweep_members": str(len(self._plan.members))}
        tensors = lora_tensors(stage.adapters, standings.training.index(number), member.rank)
        run.artifacts.put(LORA, partial(save_tensors, tensors=tensors, metadata=metadata))
        run.artifacts.put_json(CONFIG, lora_config(of_best, metadata))
        data = standings.as_json(self._steps)
        run.artifacts.put_json(SWEEP, data)
        run.artifacts.put(SWEEP_PICTURE, partial(draw_sweep, standings=data))
