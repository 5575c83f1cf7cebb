"""What is measured once, at the end of a run: how far its previews have come towards the data; then the last page.

In: a run whose last previews are written. Out: artifacts.
"""

from __future__ import annotations

from collections.abc import Collection

from sonolora.analysis.likeness import descriptions, energy_distance
from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform, decode_audio
from sonolora.runs.artifacts import REPORT_MEDIA, RunArtifacts
from sonolora.runs.report.preview_sources import sources_of
from sonolora.runs.report.report_page import update_page
from sonolora.runs.report.verdict import FINISH
from sonolora.runs.run import Run

_MOST_CLIPS = 32  # to compare with


def put_finish(run: Run, seconds: float) -> None:
    """Put the figures and the page."""
    leaks = {number for number, source in sources_of(run.artifacts).items() if source.leak}
    figures = {"seconds": round(seconds, 1), "moved": moved_towards_data(run.artifacts, without=leaks)}
    if leaks:
        others = {one.number for one in run.artifacts.previews()} - leaks
        figures["leak"] = moved_towards_data(run.artifacts, without=others)
    run.artifacts.put_json(FINISH, figures)
    update_page(run.artifacts)


def moved_towards_data(artifacts: RunArtifacts, without: Collection[int] = ()) -> float | None:
    """How much nearer to the clips of the run the newest previews are than the base's, as a share of the distance of
    the base's; None where there is nothing to compare. `without`: numbers of previews that do not count."""
    previews = [one for one in artifacts.previews() if one.number not in without]
    before = _sounds(artifacts, [one.sound for one in previews if one.kind == "base"])
    last = max((one.step for one in previews), default=0)
    after = _sounds(artifacts, [one.sound for one in previews if one.step == last and last])
    names = [name for name in artifacts.names(REPORT_MEDIA) if name.endswith(".wav") and _is_clip(name)]
    real = _sounds(artifacts, names[:: -(-len(names) // _MOST_CLIPS)] if names else [])
    if not (before and after and real):
        return None
    true = descriptions(real)
    distance = energy_distance(descriptions(before), true)
    return round(1 - energy_distance(descriptions(after), true) / distance, 4) if distance > 0 else None


def _is_clip(name: str) -> bool:
    return name.removeprefix(f"{REPORT_MEDIA}/").removesuffix(".wav").isdigit()


def _sounds(artifacts: RunArtifacts, names: list[str]) -> list[Waveform]:
    sounds = []
    for name in names:
        try:
            sounds.append(decode_audio(artifacts.path(name)).waveform)
        except (MediaError, OSError):
            continue
    return sounds
