"""How the members of a sweep stand: losses of held-out clips by step, paired with the base's, and who trains on.

In: losses of the members that train. Out: their order, `sweep.json`, a table, and what a training state keeps.
A member is measured by the change of the loss of each clip, log(loss / base), as in `training.evaluation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from sonolora.core.errors import SonoloraError
from sonolora.planning.sweep_plan import SweepPlan
from sonolora.runs.evaluation.evaluation_record import percent
from sonolora.training.differences import Difference, difference
from sonolora.training.evaluation import changes

_TENSORS = ("sweep.base", "sweep.steps", "sweep.losses", "sweep.training")
_VERSION = 1
DIVERGED, LOWER_RATES = "all members of the sweep diverged", "start again with lower learning rates"


@dataclass
class Standings:
    """`losses` (members, clips, sigmas) of each evaluation, NaN where a member no longer trains; `base` the base's."""

    plan: SweepPlan
    recordings: Sequence[int]
    base: Tensor
    steps: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    training: list[int] = field(default_factory=list)  # numbers of the members that train

    def __post_init__(self) -> None:
        self.training = self.training or list(range(len(self.plan.members)))

    def add(self, step: int, losses: Tensor) -> None:
        """Another evaluation, of the members that train."""
        all_losses = torch.full((len(self.plan.members), *losses.shape[1:]), torch.nan)
        # Infinite where a member has diverged, so that it is not taken for one that has ended.
        all_losses[self.training] = torch.where(self.base.isnan(), torch.nan, losses.nan_to_num(torch.inf, torch.inf))
        self.steps.append(step)
        self.losses.append(all_losses)

    def tensors(self) -> dict[str, Tensor]:
        """For a training state."""
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)
        parts = self.base, torch.tensor(self.steps), losses, torch.tensor(self.training)
        return dict(zip(_TENSORS, parts, strict=True))

    @classmethod
    def of(cls, plan: SweepPlan, recordings: Sequence[int], tensors: Mapping[str, Tensor]) -> Standings:
        """As a training state has them."""
        base, steps, losses, training = (tensors[name].clone() for name in _TENSORS)
        return cls(plan, recordings, base, steps.tolist(), list(losses), training.tolist())

    def change(self, member: int, at: int) -> float:
        """Of a member at an evaluation: the mean over clips; infinite where its numbers are no longer finite."""
        mean = changes(self.base, self.losses[at][member]).mean().item()
        return mean if math.isfinite(mean) else math.inf

    def best(self) -> int:
        """The member with the lowest loss at the newest evaluation. Raises `SonoloraError` when all have diverged."""
        return self.best_members(1)[0]

    def best_members(self, count: int) -> list[int]:
        """The numbers of those that train on, in the order of the plan. Raises as `best`."""
        order = sorted(self.training, key=lambda member: self.change(member, -1))
        if self.change(order[0], -1) == math.inf:
            raise SonoloraError(f"{DIVERGED} by step {self.steps[-1]}: {LOWER_RATES}")
        return sorted(order[:count])

    def last_evaluation(self, member: int) -> int:
        """The index of the last one in which a member took part."""
        return max(at for at, losses in enumerate(self.losses) if not losses[member].isnan().all() or not at)

    def against_base(self, member: int) -> Difference | None:
        """The change at its last evaluation; None where its numbers are no longer finite."""
        at = self.last_evaluation(member)
        if self.change(member, at) == math.inf:
            return None
        return difference(changes(self.base, self.losses[at][member]), self.recordings)

    def behind(self, member: int) -> Difference | None:
        """What a member's change is above the best one's, clip by clip at the same step: the last that both saw."""
        best, at = self.best(), self.last_evaluation(member)
        if member == best or self.change(member, at) == math.inf:
            return None
        losses = self.losses[at]
        return difference(changes(self.base, losses[member]) - changes(self.base, losses[best]), self.recordings)

    def curve(self, member: int) -> list[tuple[int, float]]:
        """Step and change at each evaluation in which a member took part, and was finite."""
        of_member = enumerate(self.steps[: self.last_evaluation(member) + 1])
        points = [(step, self.change(member, at)) for at, step in of_member]
        return [(0, 0.0), *(point for point in points if math.isfinite(point[1]))]

    def as_json(self, steps: int) -> dict[str, Any]:
        """`sweep.json`; `steps`: of a member that trains to the end."""
        best = self.best()
        members = []
        for number, member in enumerate(self.plan.members):
            against, behind = self.against_base(number), self.behind(number)
            members.append(
                {
                    **asdict(member),
                    "steps": self.steps[self.last_evaluation(number)],
                    "training": number in self.training and self.steps[-1] < steps,
                    "change": None if against is None else asdict(against),
                    "behind_best": None if behind is None else asdict(behind),
                    "curve": self.curve(number),
                }
            )
        return {
            "version": _VERSION,
            "step": self.steps[-1],
            "steps": steps,
            "held_out_clips": len(self.recordings),
            "rungs": {str(step): left for step, left in self.plan.rungs(steps).items()},
            "best": best,
            "summary": self._summary(best),
            "members": members,
        }

    def _summary(self, best: int) -> str:
        change = self.against_base(best)
        text = f"Best of {len(self.plan.members)} LoRAs by step {self.steps[-1]:,}: {self.plan.members[best].name}"
        return f"{text}." if change is None else f"{text}, held-out loss {percent(change)} against the base."


def table(standings: Mapping[str, Any]) -> str:
    """`sweep.json` as lines for people, the best first."""
    best, members = standings["best"], standings["members"]

    def order(number: int) -> tuple[bool, int, float]:
        one = members[number]
        return number != best, -one["steps"], math.inf if one["change"] is None else one["change"]["mean"]

    lines = [f"{'rank':>6}{'learning rate':>15}{'steps':>8}  {'held-out loss against the base':<32}behind the best"]
    for number in sorted(range(len(members)), key=order):
        one = members[number]
        change = "diverged" if one["change"] is None else percent(Difference(**one["change"]))
        behind = "-" if one["behind_best"] is None else percent(Difference(**one["behind_best"]))
        lines.append(f"{one['rank']:>6}{one['learning_rate']:>15g}{one['steps']:>8,}  {change:<32}{behind}")
    lines.append(f"\n{_reading(standings)}")
    return "\n".join(lines)


def _reading(standings: Mapping[str, Any]) -> str:
    close = sum(
        1 for one in standings["members"] if one["behind_best"] and not Difference(**one["behind_best"]).above_zero
    )
    clips = standings["held_out_clips"]
    chosen_on = "this one held-out clip" if clips == 1 else f"these {clips} held-out clips"
    text = f"The best was chosen on {chosen_on}, so its own figure is slightly optimistic."
    if close:
        which = "1 other is" if close == 1 else f"{close} others are"
        text = f"{which} not clearly worse than the best: more held-out clips would tell. {text}"
    return text
