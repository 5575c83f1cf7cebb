"""The evaluation of a run as JSON, as values of metrics, and in words. docs/evaluation.md has the format.

In: the history of losses. Out: what `evaluation.json`, `metrics.jsonl`, the terminal and the report show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sonolora.runs.artifacts import BEST
from sonolora.training.differences import Difference, difference
from sonolora.training.evaluation import History, changes, judge, loss_differences
from sonolora.training.validation import SIGMAS, SIGNS

_VERSION = 1
_WORDS = {
    "learning": "still learning: the loss of held-out clips keeps falling",
    "plateau": "plateau: the loss of held-out clips no longer falls",
    "memorising": "memorising: the loss falls on training clips alone",
    "worse": "worse than the base: the loss of held-out clips has risen above it",
    "open": "open: too few recordings are held out, or too little is learnt, to tell it from chance",
}


def record(history: History, looks: int, note: str) -> dict[str, Any]:
    """The newest judgement."""
    index = len(history.steps) - 1
    judgement = judge(history, index, looks)
    return {
        "version": _VERSION,
        "step": history.steps[index],
        "grid": {"sigmas": list(SIGMAS), "noises": len(SIGNS)},
        "looks": looks,
        "status": judgement.status if judgement else None,
        "summary": summary(history, looks, note),
        "best": _best(history, index, looks),
    }


def summary(history: History, looks: int, note: str) -> str:
    """The newest evaluation in a sentence or two."""
    index = len(history.steps) - 1
    judgement = judge(history, index, looks)
    if judgement is None:
        change = math.expm1(changes(history.training[0], history.training[index]).mean().item())
        on_training = f"loss on training clips {change:+.0%} against the base" if index else "the base"
        return on_training if history.held_out_recordings else f"{on_training}; {note.split('. ')[0]}"
    text = f"{_WORDS[judgement.status]} ({percent(judgement.change)} against the base)"
    if judgement.best is not None and judgement.best != index and judgement.clear:
        text += f"; lowest at step {history.steps[judgement.best]}, kept in {BEST}"
    return text


def percent(change: Difference) -> str:
    """A change of losses with its interval, such as `-12 % [-15, -9]`."""
    mean = f"{100 * math.expm1(change.mean):+.0f} %"
    if change.low is None or change.high is None:
        return mean
    return f"{mean} [{100 * math.expm1(change.low):+.0f}, {100 * math.expm1(change.high):+.0f}]"


def metrics_values(history: History, index: int, looks: int) -> dict[str, Any]:
    """The values of a line of `metrics.jsonl`."""
    training = history.training[index]
    values: dict[str, Any] = {
        "train_eval_loss": training.nanmean().item(),
        "train_eval_loss_by_sigma": _by_sigma(training),
        "base_train_eval_loss": history.training[0].nanmean().item(),
    }
    if not history.held_out_recordings:
        return values
    losses = history.held_out[index]
    values |= {
        "held_out_loss": losses.nanmean().item(),
        "held_out_loss_by_sigma": _by_sigma(losses),
        "base_held_out_loss": history.held_out[0].nanmean().item(),
    }
    if (judgement := judge(history, index, looks)) is not None:
        values |= {
            "held_out_change": _ends(judgement.change),
            "memorisation_gap": _ends(judgement.gap),
            "status": judgement.status,
            "best_step": history.steps[judgement.best or 0],
        }
    return values


def _best(history: History, index: int, looks: int) -> dict[str, Any] | None:
    judgement = judge(history, index, looks)
    if judgement is None or judgement.best is None:
        return None
    base, losses = history.held_out[0], history.held_out[judgement.best]
    return {
        "step": history.steps[judgement.best],
        "held_out_loss": losses.nanmean().item(),
        "change": _as_json(difference(changes(base, losses), history.held_out_recordings)),
        "clear": judgement.clear,
        "file": BEST if judgement.clear else None,
    }


def evaluation_record(history: History, index: int, looks: int) -> dict[str, Any]:
    """One evaluation, of which nothing changes when others follow."""
    judgement = judge(history, index, looks)
    held_out = history.held_out_recordings
    return {
        "step": history.steps[index],
        "training": _part(history.training[0], history.training[index], history.training_recordings),
        "held_out": _part(history.held_out[0], history.held_out[index], held_out) if held_out else None,
        "gap": _as_json(judgement.gap) if judgement else None,
        "status": judgement.status if judgement else None,
    }


def _part(base: Tensor, losses: Tensor, recordings: Sequence[int]) -> dict[str, Any]:
    """Losses beside the base's, over all noise levels and by level."""
    by_sigma = {}
    for at, sigma in enumerate(SIGMAS):
        measured = [clip for clip in range(len(losses)) if not losses[clip, at].isnan()]
        if measured:
            values = (losses - base)[measured, at]
            by_sigma[str(sigma)] = {
                "loss": losses[measured, at].mean().item(),
                "base": base[measured, at].mean().item(),
                "difference": _as_json(difference(values, [recordings[clip] for clip in measured])),
            }
    return {
        "loss": losses.nanmean().item(),
        "base": base.nanmean().item(),
        "difference": _as_json(difference(loss_differences(base, losses), recordings)),
        "change": _as_json(difference(changes(base, losses), recordings)),
        "by_sigma": by_sigma,
    }


def _by_sigma(losses: Tensor) -> dict[str, float]:
    means = losses.nanmean(0).tolist()
    return {str(sigma): round(loss, 5) for sigma, loss in zip(SIGMAS, means, strict=True) if not math.isnan(loss)}


def _as_json(one: Difference) -> dict[str, float | None]:
    return {"mean": one.mean, "low": one.low, "high": one.high}


def _ends(one: Difference) -> list[float | None]:
    return [one.mean, one.low, one.high]
