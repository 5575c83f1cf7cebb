"""What is measured once, at the end of a run: how far its previews have come towards the data; then the last page.

In: a run whose last previews are written. Out: artifacts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sonolora.analysis.embeddings import LogMelSpace
from sonolora.runs.report.distances import preview_distances
from sonolora.runs.report.preview_sources import sources_of
from sonolora.runs.report.report_page import update_page
from sonolora.runs.report.verdict import FINISH
from sonolora.runs.run import Run


def put_finish(run: Run, seconds: float, warn: Callable[[str], None]) -> None:
    """Put the figures and the page."""
    leaks = {number for number, source in sources_of(run.artifacts).items() if source.leak}
    distances = preview_distances(run.artifacts, warn, without=leaks)
    figures: dict[str, Any] = {"seconds": round(seconds, 1), "moved": _moved(distances), "distances": distances}
    if leaks:
        others = {one.number for one in run.artifacts.previews()} - leaks
        figures["leak_distances"] = preview_distances(run.artifacts, warn, without=others)
        figures["leak"] = _moved(figures["leak_distances"])
    run.artifacts.put_json(FINISH, figures)
    update_page(run.artifacts)


def _moved(distances: list[dict[str, Any]]) -> float | None:
    """By log-mels, as the figure was before there were several spaces."""
    return next((one["moved"] for one in distances if one["name"] == LogMelSpace.name), None)
