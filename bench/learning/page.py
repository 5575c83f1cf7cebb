"""The results page of the learning benchmark, as Markdown.

In: a `Report` per mode. Out: the text.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import torch
from contenders import BASE, CEILINGS
from experiment import Plan
from judge import LORA, Leak, Row
from made_data import KINDS
from paired import Difference, paired_difference
from torch import Tensor

from sonolora import __version__
from sonolora.ltx.weights.base import Base
from sonolora.planning.bench.machine_limits import device_name
from sonolora.training.validation import SIGMAS

LINE = 115
GIVEN = {
    "t2a": "words",
    "a2a": "reference",
    "v2a": "video",
    "audio-inpaint": "kept frames",
    "audio-extend-suffix": "closing",
    "audio-extend-prefix": "opening",
}
KEPT = "LoRA with --preserve"
_BEATEN = {True: "yes", False: "no", None: "open"}


@dataclass(frozen=True)
class Losses:
    """Losses (clips, sigmas) on held-out clips. `exchanged`: the LoRA with the next clip's conditioning; `zero`:
    (clips, 1), for a velocity of 0."""

    zero: Tensor
    base: Tensor
    lora: Tensor
    exchanged: Tensor


@dataclass(frozen=True)
class Preserved:
    """A LoRA that was trained with `--preserve`: all metrics, the margins those of the other LoRA to it; leakage."""

    share: float
    rows: Sequence[Row]
    leaks: Sequence[Leak]


@dataclass(frozen=True)
class Report:
    """Results of one mode. `by_density`: the main metric with each sigma density; the first is the LoRA of all other
    tables, and the margins of the others are relative to it."""

    mode: str
    steps: int  # of training
    held_out: int  # samples
    rows: Sequence[Row]
    leaks: Sequence[Leak]
    by_density: Mapping[str, Row]
    preserved: Preserved | None
    losses: Losses

    @property
    def main_rows(self) -> list[Row]:
        return [row for row in self.rows if row.figure == self.rows[0].figure]


def page(reports: Sequence[Report], base: Base, plan: Plan, arguments: Sequence[str]) -> str:
    """The tables, and how they were made."""
    cpu, threads = device_name(torch.device("cpu")), torch.get_num_threads()
    parts = [
        "# Does each mode learn?",
        _filled(
            "A LoRA of each mode is trained on a kind of sound that the base does not know, and evaluated by what it "
            "generates for held-out samples, next to the base and to baselines without a model. "
            "[bench/learning](../bench/learning/README.md) describes the method."
        ),
        f"    python bench/learning/run.py {shlex.join(arguments)}",
        _filled(
            f"Base {base.name} ({base.fingerprint}, made by {base.checkpoint.metadata.get('made_by', 'unknown')}); "
            f"{plan.train_clips} training samples of {plan.seconds:g} s per mode; held-out samples and steps as in the "
            f"table; learning rate {plan.training.learning_rate:g}, rank {plan.rank}, each mode's default "
            f"sigma density, seed {plan.training.seed}; {plan.sampling.steps} sampling steps, CFG "
            f"{plan.sampling.guidance.cfg:g}, STG {plan.sampling.guidance.stg:g}. {cpu}, "
            f"{threads} thread{'s' * (threads > 1)}; Sonolora {__version__}, Python {platform.python_version()}, "
            f"torch {torch.__version__}."
        ),
        _filled(
            "Brackets hold 95 % bootstrap intervals over held-out samples, paired by sample. The LoRA beats another "
            "row if the interval of the difference excludes 0; otherwise the comparison is open. Rows in italics are "
            "upper bounds that no model can beat."
        ),
        "## Summary",
        _overview(reports),
    ]
    for report in reports:
        parts += [f"## {report.mode}: {KINDS[report.mode]}", *_figures(report.rows)]
        if report.leaks:
            parts += _leakage(report.leaks)
        if report.preserved is not None:
            parts += _preservation(report.preserved)
    if len(reports[0].by_density) > 1:
        parts += _densities(reports, plan)
    return "\n\n".join([*parts, *_losses(reports)]) + "\n"


def _overview(reports: Sequence[Report]) -> str:
    rows = []
    for report in reports:
        by_name = {row.contender: row for row in report.main_rows}
        naive = [row for name, row in by_name.items() if name not in {LORA, BASE, *CEILINGS}]
        best = max(naive, key=lambda row: row.value if row.higher_is_better else -row.value)
        others = [by_name[BASE], *naive]
        beaten = [row.contender for row in others if row.beaten]
        left = [f"{row.contender} ({_BEATEN[row.beaten]})" for row in others if not row.beaten]
        cells = (f"{row.value:.2f}" for row in (by_name[LORA], by_name[BASE]))
        naive_best = f"{best.value:.2f} ({best.contender})"
        who = (report.mode, str(report.steps), str(report.held_out), by_name[LORA].figure)
        rows.append((*who, *cells, naive_best, ", ".join(beaten), ", ".join(left)))
    head = (
        "mode",
        "steps",
        "held out",
        "main metric",
        "LoRA",
        "base",
        "best baseline",
        "the LoRA beats",
        "does not clearly beat",
    )
    return table(head, rows)


def _figures(rows: Sequence[Row]) -> list[str]:
    parts = []
    for figure in dict.fromkeys(row.figure for row in rows):
        cells, of_figure = [], [row for row in rows if row.figure == figure]
        for row in of_figure:
            name = f"*{row.contender}*" if row.contender in CEILINGS else row.contender
            beaten = "" if row.margin is None or row.contender in CEILINGS else _BEATEN[row.beaten]
            cells.append((name, f"{row.value:.3f}", shown(row.margin) if row.margin else "", beaten))
        better = "higher" if of_figure[0].higher_is_better else "lower"
        parts.append(table((f"{figure} ({better} is better)", "", "LoRA − row", "beaten"), cells))
    return parts


def _leakage(leaks: Sequence[Leak]) -> list[str]:
    cells = [
        (leak.space, leak.whose, leak.other, f"{leak.to_other:.3f}", f"{leak.to_new:.3f}", shown(leak.margin))
        for leak in leaks
    ]
    text = (
        "Does the LoRA change sounds that it was not trained on? Mean distances in both spaces, for captions of kinds "
        "that the base knows. Below 0 in the last column, the sounds stay closer to their caption than to the "
        "new kind. [What `--preserve` does about it](../bench/results/preserve.md) is measured apart."
    )
    heads = ("space", "sounds of", "compared with", "distance", "to the new kind", "difference")
    return [_filled(text), table(heads, cells)]


def _preservation(preserved: Preserved) -> list[str]:
    cells = [(row.figure, f"{row.value:.3f}", shown(row.margin)) for row in preserved.rows if row.margin is not None]
    parts = [
        _filled(
            f"The same with `--preserve {preserved.share:g}`; margins are of the LoRA without it to the one with it."
        ),
        table(("metric", KEPT, "LoRA − row"), cells),
    ]
    return [*parts, *(_leakage(preserved.leaks)[1:] if preserved.leaks else [])]


def _densities(reports: Sequence[Report], plan: Plan) -> list[str]:
    names = sorted(reports[0].by_density)
    cells = []
    for report in reports:
        others = [
            f"{row.value:.3f}; {shown(row.margin)}" if row.margin else f"**{row.value:.3f}**"
            for row in (report.by_density[name] for name in names)
        ]
        cells.append((report.mode, *others))
    text = (
        f"The main metric of each mode on the first {plan.held_out_clips} held-out samples. The mode's default density "
        "is bold; the others are followed by the bold value minus theirs, with its interval. For v2a higher is "
        "better."
    )
    return ["## By sigma density", _filled(text), table(("mode", *names), cells)]


def _losses(reports: Sequence[Report]) -> list[str]:
    cells = []
    for report in reports:
        one = report.losses
        means = [f"{losses.mean().item():.3f}" for losses in (one.zero, one.base, one.lora)]
        by_sigma = (one.lora - one.base).mean(0).tolist()
        given = shown(paired_difference(one.lora, one.exchanged))
        cells.append(
            (report.mode, *means, shown(paired_difference(one.base, one.lora)), *(f"{x:+.3f}" for x in by_sigma), given)
        )
    text = (
        "Means over held-out clips and fixed noise levels; then the LoRA's loss minus the base's, overall and by noise "
        "level. The last column is the LoRA's loss with the next clip's conditioning (caption, reference, video, or "
        "kept audio) minus its loss with the clip's own: above 0, the LoRA uses its conditioning."
    )
    sigmas = (f"at sigma {sigma:g}" for sigma in SIGMAS)
    head = ("mode", "velocity 0", "base", "LoRA", "LoRA − base", *sigmas, "exchanged − own")
    return ["## Losses", _filled(text), table(head, cells)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(difference: Difference) -> str:
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _filled(text: str) -> str:
    return fill(text, LINE, break_on_hyphens=False, break_long_words=False)
