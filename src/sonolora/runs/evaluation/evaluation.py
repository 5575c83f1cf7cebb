"""The evaluation of a run on held-out and training clips: measured at intervals, judged, kept in the training state.

In: a run, its data, its model with adapters. Out, among the run's artifacts: `evaluation.json` (docs/evaluation.md has
its format), and `best.safetensors`, the state of the lowest held-out loss, once it is better than the base beyond
chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sonolora.core.tensor_file import save_tensors
from sonolora.data.prepared import Prepared
from sonolora.ltx.lora.adapters import lora_tensors, rounded_to_bf16
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.media.audio import Waveform
from sonolora.planning.run_settings import KEEP_BEST
from sonolora.runs.artifacts import BEST, EVALUATION, PATTERNS
from sonolora.runs.evaluation.copies import likeness_of_previews, load_patterns
from sonolora.runs.evaluation.evaluation_record import evaluation_record, metrics_values, record, summary
from sonolora.runs.lora_metadata import lora_metadata
from sonolora.runs.report.preview_sources import sources_of
from sonolora.runs.run import Run
from sonolora.training.effect import Effect, measure_effect
from sonolora.training.evaluation import History, Judgement, changes, judge
from sonolora.training.validation import (
    ALL_LEVELS_UP_TO,
    MAX_CLIPS,
    MAX_HELD_OUT,
    SIGMAS,
    SIGNS,
    grid_losses,
    only_adapters,
    spread,
    without_adapters,
)

# Shares of the run's forward passes, a step counting as three.
_EVALUATIONS_SHARE, _CLIPS_SHARE = 0.06, 0.025
_MIN_TABLE, _TABLE_SIGMA = 8, (0.625,)
_BEST = "best."  # begins the names of its tensors in a state


class Evaluation:
    """Measures with the values that the LoRA file will hold."""

    def __init__(
        self, run: Run, prepared: Prepared, model: Transformer, adapters: Adapters, device: torch.device
    ) -> None:
        self._run, self._prepared, self._model, self._adapters, self._device = run, prepared, model, adapters, device
        self._training = [*spread(len(prepared.examples), MAX_CLIPS)]
        self._held_out = [*spread(len(prepared.held_out.examples), MAX_HELD_OUT)]
        self.history = History(
            [prepared.recordings[index] for index in self._training],
            [prepared.held_out.recordings[index] for index in self._held_out],
            all_training=len(self._training) == len(prepared.examples),
        )
        self._best: dict[str, Tensor] = {}
        self._finished: dict[str, Any] = {}
        self._evaluations: list[dict[str, Any]] = []  # as in the record; each follows from the losses up to it
        self.every = run.settings.evaluate_every or self._interval()

    def _interval(self) -> int:
        """Steps between evaluations: a part of those between previews, as short as the share of time allows."""
        request, settings = self._run.request, self._run.settings
        if not self._held_out:
            return settings.preview_steps
        passes = sum(_levels(len(part)) * len(part) for part in (self._training, self._held_out)) * len(SIGNS)
        affordable = _EVALUATIONS_SHARE * 3 * request.number_of_steps * settings.batch_size / passes - 1  # the base
        between_previews = int(affordable * settings.preview_steps / request.number_of_steps)
        return settings.preview_steps // max(1, min(between_previews, settings.preview_steps))

    @property
    def looks(self) -> int:
        """How many evaluations the run will have judged at its end."""
        steps = self._run.request.number_of_steps
        every = {step for one in (self.every, self._run.settings.preview_steps) for step in range(one, steps, one)}
        return len(every) + 1

    def is_due(self, step: int) -> bool:
        """Whether this step is one at which every run with these settings is measured."""
        return step % self.every == 0 or step % self._run.settings.preview_steps == 0

    def measure(self, step: int) -> None:
        """Losses at a step, with the base's before the first; not twice for one step."""
        if not self.history.steps:
            with only_adapters(self._adapters, without_adapters):
                self.history.add(0, *self._losses())
        if step in self.history.steps:
            return
        with rounded_to_bf16(self._adapters):
            self.history.add(step, *self._losses())
        if self.history.best() == len(self.history.steps) - 1:
            self._best = {name: tensor.clone() for name, tensor in lora_tensors(self._adapters).items()}
        self._write()

    def _losses(self) -> tuple[Tensor, Tensor]:
        training = [self._prepared.examples[index] for index in self._training]
        held_out = [self._prepared.held_out.examples[index] for index in self._held_out]
        return tuple(  # type: ignore[return-value]
            grid_losses(self._model, part, self._device, alternate=len(part) > ALL_LEVELS_UP_TO)
            for part in (training, held_out)
        )

    def judgement(self) -> Judgement | None:
        """Of the newest evaluation."""
        return judge(self.history, len(self.history.steps) - 1, self.looks)

    def is_over(self) -> bool:
        """Whether `--stop-early` ends the run now."""
        settings = self._run.settings
        return settings.stop_early and bool(self._held_out) and self.history.since_best() >= settings.patience

    def metrics(self, step: int) -> dict[str, Any]:
        """The values of a line of metrics."""
        return metrics_values(self.history, self.history.steps.index(step), self.looks)

    def summary(self) -> str:
        """The newest evaluation in words."""
        return summary(self.history, self.looks, self._prepared.held_out.note)

    def state(self) -> dict[str, Tensor]:
        """For a training state: all losses so far, and the best adapters."""
        return {**self.history.tensors(), **{f"{_BEST}{name}": tensor for name, tensor in self._best.items()}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state, before anything is measured; what was written after it is written again."""
        self._best = {name.removeprefix(_BEST): tensor for name, tensor in state.items() if name.startswith(_BEST)}
        self.history.load({name: tensor for name, tensor in state.items() if not name.startswith(_BEST)})
        if self.history.steps:
            self._write()

    def best_step(self) -> int:
        """The step of the lowest held-out loss; 0 for the base."""
        return self.history.steps[self.history.best() or 0]

    def best_tensors(self) -> dict[str, Tensor] | None:
        """Of the LoRA that `--keep best` keeps: None where it is the last one."""
        judgement = self.judgement()
        clear = judgement is not None and judgement.clear
        return self._best if self._run.settings.keep == KEEP_BEST and clear else None

    def finish(self, step: int) -> None:
        """At the end: the table of clips and the effect."""
        with rounded_to_bf16(self._adapters):
            held_out = self._prepared.held_out
            effect = measure_effect(
                self._model, self._adapters, held_out.examples or self._prepared.examples, self._device
            )
            table = self._table()
        self._finished = {"effect": _effect_json(effect, bool(held_out.examples)), **table}
        self._finished["stopped_early"] = step < self._run.request.number_of_steps
        self._write()

    def add_previews(self, sounds: Sequence[Waveform]) -> None:
        """How much the last previews are like the clips, where these are known."""
        patterns = load_patterns(self._run.artifacts.path(PATTERNS))
        if patterns is None or not sounds:
            return
        items, sources = self._prepared.previews, sources_of(self._run.artifacts)
        previews = [(item.prompt, sound, item.regenerate) for item, sound in zip(items, sounds, strict=True)]
        given = [sources.get(number) for number in range(1, len(sounds) + 1)]
        own = [source.clip if source is not None and (source.given or source.film) else None for source in given]
        self._finished |= likeness_of_previews(patterns, previews, own)
        self._write()

    def _table(self) -> dict[str, Any]:
        """Clips by how much of the base's loss is left, the hardest first, at one noise level."""
        prepared, request, settings = self._prepared, self._run.request, self._run.settings
        passes = _CLIPS_SHARE * 3 * request.number_of_steps * settings.batch_size
        count = max(_MIN_TABLE, int(passes / (2 * len(SIGNS))))
        chosen = [*spread(len(prepared.examples), count)]
        examples = [prepared.examples[index] for index in chosen]
        examples += [prepared.held_out.examples[index] for index in self._held_out]
        losses = grid_losses(self._model, examples, self._device, sigmas=_TABLE_SIGMA)
        with only_adapters(self._adapters, without_adapters):
            base = grid_losses(self._model, examples, self._device, sigmas=_TABLE_SIGMA)
        names = [prepared.names[index] for index in chosen] + [prepared.held_out.names[i] for i in self._held_out]
        change = changes(base, losses)
        rows = [
            {
                "name": name,
                "held_out": at >= len(chosen),
                "loss": losses[at].item(),
                "base": base[at].item(),
                "difference": (losses[at] - base[at]).item(),
                "remark": remark(change, at, len(chosen)),
            }
            for at, name in enumerate(names)
        ]
        rows.sort(key=lambda row: -row["loss"] / row["base"])
        of = (
            f"all {len(chosen)}"
            if len(chosen) == len(prepared.examples)
            else f"{len(chosen)} of {len(prepared.examples)}"
        )
        return {"clips": rows, "clips_measured": f"{of} training clips"}

    def _write(self) -> None:
        artifacts, judgement = self._run.artifacts, self.judgement()
        if judgement is not None and judgement.clear and judgement.best is not None:
            metadata = lora_metadata(self._run, self._prepared) | {
                "best_step": str(self.history.steps[judgement.best]),
                "steps_planned": str(self._run.request.number_of_steps),
            }
            metadata["steps"] = metadata["best_step"]
            artifacts.put(BEST, partial(save_tensors, tensors=self._best, metadata=metadata))
        else:
            artifacts.remove(BEST)
        names = self._prepared.held_out.names
        for index in range(len(self._evaluations), len(self.history.steps)):
            self._evaluations.append(evaluation_record(self.history, index, self.looks))
        data = record(self.history, self.looks, self._prepared.held_out.note) | {
            "evaluations": self._evaluations,
            "steps": self._run.request.number_of_steps,
            "held_out": {
                "clips": list(names),
                "recordings": len(set(self._prepared.held_out.recordings)),
                "note": self._prepared.held_out.note,
            },
            **_UNFINISHED,
            **self._finished,
        }
        artifacts.put_json(EVALUATION, data)


_UNFINISHED: dict[str, Any] = {"stopped_early": False, "clips": [], "clips_measured": "", "effect": None, "copies": []}


def _levels(clips: int) -> int:
    return len(SIGMAS) if clips <= ALL_LEVELS_UP_TO else len(SIGMAS) // 2


def remark(change: Tensor, at: int, training: int) -> str | None:
    """What is odd about a training clip, by the changes of all: the first `training` ones are trained on."""
    if at >= training:
        return None
    median = change[:training].median().item()
    if median < _LEARNT and change[at] >= 0:
        return "never improves: look at its caption"
    held_out = change[training:]
    if len(held_out) and change[at] < min(1.5 * held_out.min().item(), _MEMORISED):
        return "memorised"
    return None


_LEARNT = -0.05  # change of the loss of the middle clip from which on a clip that does not improve stands out
_MEMORISED = -0.25


def _effect_json(effect: Effect, held_out: bool) -> dict[str, Any]:
    return {
        "verdict": effect.verdict,
        "change": effect.change,
        "by_sigma": dict(effect.by_sigma),
        "by_part": dict(effect.by_part),
        "measured_on": "held-out clips" if held_out else "training clips",
    }
