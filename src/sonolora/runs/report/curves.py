"""Curves of a run as SVG: text and lines alone, in the colours of the page around them.

In: named series of (step, value), some with an interval. Out: markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 40
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Series:
    """`kind` is its class in the page's style; `low` and `high` the band around it, if there is one."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


def draw_curves(series: Sequence[Series], label: str) -> Markup:
    """An image with its axes; empty where no series has two points."""
    drawn = [one for one in series if one.points]
    values = [value for one in drawn for _, value in one.points]
    values += [value for one in drawn for _, low, high in one.band for value in (low, high)]
    last = max((step for one in drawn for step, _ in one.points), default=0.0)
    if last <= 0 or not values:
        return Markup()
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(step: float) -> float:
        return _LEFT + step / last * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(0.0, last):
        if tick <= last:
            anchor = "start" if tick == 0 else "end" if tick > 0.95 * last else "middle"
            parts.append(f'<text x="{x(tick):.1f}" y="{_HEIGHT - 18}" text-anchor="{anchor}">{tick:,g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">step</text>')
    for one in drawn:
        if one.band:
            edge = [(step, top) for step, _, top in one.band] + [(step, bottom) for step, bottom, _ in one.band[::-1]]
            corners = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in edge)
            parts.append(f'<polygon class="{one.kind} band" points="{corners}"/>')
        line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in one.points)
        parts.append(f'<polyline class="{one.kind}" points="{line}"><title>{escape(one.name)}</title></polyline>')
        if len(one.points) <= 30:
            parts += [f'<circle class="{one.kind}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>' for a, b in one.points]
    return Markup("".join([*parts, "</svg>"]))


def smoothed(points: Sequence[tuple[float, float]], most: int = 120) -> list[tuple[float, float]]:
    """At most so many points, each the mean of its neighbours: single steps are noisy."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below the lowest to above the highest value, four or so."""
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in _STEPS if span / (power * factor) <= 5)
    first = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - first
    return [round(step * (first + index), 12) for index in range(max(count, 1) + 1)]
