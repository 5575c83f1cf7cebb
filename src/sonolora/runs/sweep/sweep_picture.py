"""The picture of a sweep: the held-out loss of every member against the base's, by step.

In: `sweep.json`. Out: a PNG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from sonolora.core.atomic_files import atomic_write

_INK, _GRID = "#1b1f24", "#d8dde3"
_MARKS = "osD^vPX*"  # by rank


def draw_sweep(path: Path, standings: Mapping[str, Any]) -> None:
    """Colours are learning rates, marks are ranks; a cross is where a member ended early, the best is a thick line."""
    members = standings["members"]
    rates = sorted({one["learning_rate"] for one in members})
    ranks = sorted({one["rank"] for one in members})
    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained", facecolor="white")
    panel = figure.subplots()
    for number, one in enumerate(members):
        steps, changes = zip(*one["curve"], strict=True)
        colour = colormaps["viridis"](0.9 * rates.index(one["learning_rate"]) / max(len(rates) - 1, 1))
        best = number == standings["best"]
        panel.plot(
            steps,
            [100 * math.expm1(change) for change in changes],
            color=colour,
            marker=_MARKS[ranks.index(one["rank"]) % len(_MARKS)],
            markersize=5,
            linewidth=3.5 if best else 1.5,
            zorder=3 if best else 2,
            label=f"{one['learning_rate']:g}, rank {one['rank']}{' (best)' if best else ''}",
        )
        if steps[-1] < standings["step"]:
            panel.plot(steps[-1:], [100 * math.expm1(changes[-1])], "x", color=colour, markersize=11, zorder=4)
    for rung in standings["rungs"]:
        panel.axvline(int(rung), color=_GRID, zorder=0)
    panel.axhline(0, color=_INK, linewidth=1)
    panel.set_xlabel("step", fontsize=14)
    panel.set_ylabel("held-out loss against the base, %", fontsize=14)
    panel.tick_params(labelsize=12)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(
        title="learning rate, rank", fontsize=11, title_fontsize=11, frameon=False, ncols=1 + len(members) // 9
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
