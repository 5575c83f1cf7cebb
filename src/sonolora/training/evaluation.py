"""What the losses of held-out and training clips say: still learning, plateau, memorising, worse than the base.

In: losses with fixed noise at each evaluation, the first of which is the base. Out: a `Judgement`. All of it is a pure
function of the losses, so that a run that is resumed with them judges alike.

Clips differ far more in how much they can improve than an evaluation errs, so that everything is paired by clip: what
counts is the change of a clip's loss, log(loss / base). Decisions are taken again at every evaluation of a run. Their
intervals allow for that by Bonferroni's rule: with `looks` evaluations one against the base has the confidence
1 - 0.05 / looks, and one against an earlier evaluation 1 - 0.05 / pairs, of which there are looks (looks - 1) / 2,
since the lowest of all is chosen. So all statements of one kind in a run are right together 95 times in 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sonolora.training.differences import CONFIDENCE, Difference, difference, difference_of_means

Status = Literal["learning", "plateau", "memorising", "worse", "open"]
_EARLIER = 0.8  # of the present step: what "still learning" is compared with
_SMALL = 0.05  # of the change against the base: a fall below it is a plateau, unless it is clear
_TENSORS = ("steps", "training", "held_out")


@dataclass
class History:
    """Losses (clips, sigmas) by step, NaN where a clip is not measured; the first are the base's.

    `all_training`: whether all training clips are measured. Their mean is then known, and only what is held out is a
    sample of other sounds.
    """

    training_recordings: Sequence[int]
    held_out_recordings: Sequence[int]
    all_training: bool = True
    steps: list[int] = field(default_factory=list)
    training: list[Tensor] = field(default_factory=list)
    held_out: list[Tensor] = field(default_factory=list)  # (0, sigmas) when nothing is held out

    def add(self, step: int, training: Tensor, held_out: Tensor) -> None:
        """Losses of another evaluation."""
        self.steps.append(step)
        self.training.append(training)
        self.held_out.append(held_out)

    def tensors(self) -> dict[str, Tensor]:
        """For a training state; empty before the first evaluation."""
        if not self.steps:
            return {}
        parts = torch.tensor(self.steps), torch.stack(self.training), torch.stack(self.held_out)
        return dict(zip(_TENSORS, parts, strict=True))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the tensors of a state."""
        if tensors:
            steps, training, held_out = (tensors[name].clone() for name in _TENSORS)
            self.steps, self.training, self.held_out = steps.tolist(), list(training), list(held_out)

    def best(self, until: int | None = None) -> int | None:
        """Index of the evaluation (of the first `until`) with the lowest held-out loss; None if that is the base."""
        count = len(self.steps) if until is None else until
        if not self.held_out_recordings or not count:
            return None
        means = [changes(self.held_out[0], losses).mean().item() for losses in self.held_out[:count]]
        index = min(range(count), key=means.__getitem__)
        return index or None

    def since_best(self) -> int:
        """Evaluations after the one with the lowest held-out loss."""
        return len(self.steps) - 1 - (self.best() or 0)


def changes(base: Tensor, losses: Tensor) -> Tensor:
    """Change of the loss of each clip, (clips,): the logarithm of its ratio to the base's, over all noise levels."""
    return (losses.nanmean(1) / base.nanmean(1)).log()


def loss_differences(base: Tensor, losses: Tensor) -> Tensor:
    """Loss of each clip minus the base's, (clips,)."""
    return (losses - base).nanmean(1)


@dataclass(frozen=True)
class Judgement:
    """Of one evaluation. `change`: of held-out losses against the base; `gap`: that minus the change on training clips,
    what does not transfer; `clear`: whether the best state so far is better than the base beyond chance."""

    status: Status
    change: Difference
    gap: Difference
    best: int | None
    clear: bool


def judge(history: History, index: int, looks: int) -> Judgement | None:
    """The judgement at evaluation number `index`, by what was known then; None for the base, or with none held out."""
    if not index or not history.held_out_recordings:
        return None
    against_base = 1 - (1 - CONFIDENCE) / looks
    between_steps = 1 - (1 - CONFIDENCE) / max(1, looks * (looks - 1) // 2)
    recordings = history.held_out_recordings, history.training_recordings
    held_out = [changes(history.held_out[0], losses) for losses in history.held_out[: index + 1]]
    training = [changes(history.training[0], losses) for losses in history.training[: index + 1]]
    best = history.best(index + 1)

    def paired(values: Tensor, confidence: float) -> Difference:
        return difference(values, recordings[0], confidence)

    def unpaired(one: Tensor, other: Tensor, confidence: float) -> Difference:
        """Held-out minus training clips."""
        if history.all_training:
            return difference(one - other.mean(), recordings[0], confidence)
        return difference_of_means(one, other, recordings, confidence)

    from_base, reference = paired(held_out[index], against_base), best or 0
    clear = best is not None and paired(held_out[best], against_base).below_zero
    rise = paired(held_out[index] - held_out[reference], between_steps)
    growth = unpaired(held_out[index] - held_out[reference], training[index] - training[reference], between_steps)
    earlier = max(at for at, step in enumerate(history.steps) if not at or step <= _EARLIER * history.steps[index])
    fall = paired(held_out[index] - held_out[earlier], between_steps)
    no_longer_for_others = reference != index and growth.above_zero and (rise.above_zero or not from_base.below_zero)
    if no_longer_for_others and training[index].mean() < 0:
        status: Status = "memorising"  # also where held-out losses have risen above the base's
    elif from_base.above_zero:
        status = "worse"
    elif reference == index and (fall.below_zero or (clear and fall.mean < _SMALL * from_base.mean)):
        status = "learning"
    else:
        status = "plateau" if clear else "open"
    gap = unpaired(held_out[index], training[index], CONFIDENCE)
    return Judgement(status, difference(held_out[index], recordings[0]), gap, best, clear)
