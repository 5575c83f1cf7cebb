"""What a sweep tries: every pair of a learning rate and a rank, and when the weaker half of them ends.

In: the body of a training request with several learning rates or ranks. Out: a `SweepPlan`, and the request that all
members share. Light to import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

from sonolora.core.errors import InputError
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest, parse
from sonolora.planning.run_settings import RunSettings, option

AXES = "rank", "learning_rate"
MAX_MEMBERS = 64
# Settings that a sweep has no use for, or that are not made for several members.
WITHOUT = (
    *("batch_size", "cuda_graph", "compile", "from_lora", "keep", "stop_early", "patience", "own_previews"),
    *("preview_every", "preview_strengths", "preview_leak", "preview_lora", "distill_lora"),
)
# Of these, what is without an effect: there are no previews, and nothing is stopped by patience.
_IGNORED = ("patience", "own_previews", "preview_every", "preview_strengths", "preview_leak")


@dataclass(frozen=True)
class Member:
    """What one LoRA of a sweep has of its own."""

    learning_rate: float
    rank: int

    @property
    def name(self) -> str:
        """For people and as a key."""
        return f"rank {self.rank}, learning rate {self.learning_rate:g}"


@dataclass(frozen=True)
class SweepPlan:
    """The members in their order. Without `keep_all` the better half goes on at each of the rungs."""

    members: tuple[Member, ...]
    keep_all: bool = False

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> SweepPlan:
        """As `as_json` gives it."""
        return cls(tuple(Member(**one) for one in saved["members"]), saved["keep_all"])

    def as_json(self) -> dict[str, Any]:
        """For `of`."""
        return {"members": [asdict(one) for one in self.members], "keep_all": self.keep_all}

    def request(self, mode: Mode, body: Mapping[str, Any]) -> TrainRequest:
        """What all members share, with the first learning rate, the highest rank and no previews."""
        highest = max(member.rank for member in self.members)
        own = {"learning_rate": self.members[0].learning_rate, "rank": highest, "validation": []}
        return parse(mode.request, {**body, **own})

    def rungs(self, steps: int) -> dict[int, int]:
        """How many members go on after a step, by step: evenly spread, and one is left after the last."""
        count = 0 if self.keep_all else math.ceil(math.log2(len(self.members)))
        left, result = len(self.members), dict[int, int]()
        for rung in range(1, count + 1):
            left = math.ceil(left / 2)
            result[max(1, round(steps * rung / (count + 1)))] = left
        return result

    def left_after(self, step: int, steps: int) -> int:
        """How many members train on after this step."""
        return min((left for rung, left in self.rungs(steps).items() if rung <= step), default=len(self.members))

    def member_steps(self, steps: int) -> int:
        """Steps of all members together."""
        edges = [0, *self.rungs(steps), steps]
        return sum((end - start) * self.left_after(start, steps) for start, end in pairwise(edges))


def is_sweep(body: Mapping[str, Any]) -> bool:
    """Whether the body of a request has lists where a training has one learning rate and one rank."""
    return any(isinstance(body.get(name), list) for name in AXES)


def read_sweep(mode: Mode, body: Mapping[str, Any], *, keep_all: bool = False) -> tuple[SweepPlan, TrainRequest]:
    """The plan, and a request with the first learning rate, the highest rank and no previews.

    Several values are a list, or text with commas. Raises `InputError` for values that the request refuses, for fewer
    than two members and for more than `MAX_MEMBERS`.
    """
    values = {name: _values(name, body[name]) for name in AXES if name in body}
    members: dict[Member, None] = {}
    for own in product(*values.values()):
        request = parse(mode.request, {**body, **dict(zip(values, own, strict=True))})
        members[Member(request.learning_rate, request.rank)] = None
        if len(members) > MAX_MEMBERS:
            raise InputError.of(AXES[1], f"a sweep has at most {MAX_MEMBERS} members: give fewer values")
    if len(members) < 2:
        for name in AXES:
            if len(values.get(name, ())) > 1:
                raise InputError.of(name, "is one value, given several times: a sweep needs two different ones or more")
        raise InputError.of(
            "learning_rate",
            "a sweep needs two members or more: give several learning rates or ranks, such as 1e-4,2e-4,5e-4",
        )
    plan = SweepPlan(tuple(members), keep_all)
    return plan, plan.request(mode, body)


def check_settings(settings: RunSettings) -> None:
    """Raise `InputError` for a setting that a sweep cannot have."""
    if settings.held_out == 0:
        raise InputError.of("held_out", "0 holds out no clips, and on those a sweep compares its LoRAs: give 1 or more")
    for name in WITHOUT:
        if name not in _IGNORED and getattr(settings, name) != getattr(RunSettings, name):
            raise InputError.of(name, f"a sweep does not take {option(name)}: leave it out")


def _values(name: str, given: Any) -> list[Any]:
    parts = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
    values = list(parts) if isinstance(parts, list | tuple) else [parts]
    if not values or "" in values:
        raise InputError.of(name, f"{given!r} is not a list of values, such as 16,32")
    return values
