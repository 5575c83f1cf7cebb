"""How far the last previews of a run are from its real clips, and how far those of the base were, in several spaces.

In: artifacts. Out: for each space the unbiased energy distances, and their difference with an interval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from sonolora.analysis.embeddings import embeddings
from sonolora.analysis.likeness import distances, energy_distance
from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform, decode_audio
from sonolora.runs.artifacts import REPORT, REPORT_MEDIA_INDEX, RunArtifacts
from sonolora.training.differences import difference

MOST_CLIPS = 12  # to compare with: more take longer than a run's evaluation may
_ENOUGH = 4  # held-out clips; fewer are no set of sounds, and all clips are taken


def preview_distances(
    artifacts: RunArtifacts, warn: Callable[[str], None], without: Collection[int] = ()
) -> list[dict[str, Any]]:
    """For each space its `name` and `title`, `clips` (what is compared with), `base` and `lora` (energy distances),
    `difference` (LoRA minus base, as in `evaluation.json`), `moved` (its share of the base's distance, None where that
    is not above 0). Nothing where there is nothing to compare. `without`: numbers of previews that do not count.
    """
    previews = [one for one in artifacts.previews() if one.number not in without and not one.distilled]
    before = _sounds(artifacts, [one.sound for one in previews if one.kind == "base"])
    last = max((one.step for one in previews), default=0)
    after = _sounds(artifacts, [one.sound for one in previews if one.step == last and last])
    clips, names = _clips(artifacts)
    real = _sounds(artifacts, names)
    if not (before and after and len(real) > 1):
        return []
    found = []
    for space in embeddings(warn):
        try:
            of_base, of_lora, true = (space(some) for some in (before, after, real))
            about = {"name": space.name, "title": space.title, "clips": clips}
            found.append(about | _compared(of_base, of_lora, true))
        except Exception as error:  # a space of another package must not cost the run its end
            warn(f"no distances {space.title}: {error}")
    return found


def _compared(base_ND: Tensor, lora_ND: Tensor, true_KD: Tensor) -> dict[str, Any]:
    before, after = energy_distance(base_ND, true_KD), energy_distance(lora_ND, true_KD)
    # Over real clips: what a clip adds is twice its mean distances; the spreads of the previews are the same for all.
    change_K = 2 * (distances(lora_ND, true_KD).mean(0) - distances(base_ND, true_KD).mean(0))
    interval = difference(change_K + (after - before - change_K.mean()), range(len(change_K)))
    return {
        "base": round(before, 6),
        "lora": round(after, 6),
        "difference": {name: None if end is None else round(end, 6) for name, end in vars(interval).items()},
        "moved": round(1 - after / before, 4) if before > 0 else None,
    }


def _clips(artifacts: RunArtifacts) -> tuple[str, list[str]]:
    """What the previews are compared with, in words, and the artifacts: held-out clips where there are enough."""
    try:
        shown = json.loads(artifacts.path(REPORT_MEDIA_INDEX).read_bytes())
        held_out = set(json.loads(artifacts.path(REPORT).read_bytes())["held_out"]["clips"])
        media = {one["name"]: str(PurePosixPath(one["sounds"][-1]["media"])) for one in shown}
    except (FileNotFoundError, ValueError, TypeError, KeyError, IndexError):  # a run of an earlier version
        return "", []
    kept = [sound for name, sound in media.items() if name in held_out]
    of, names = ("held-out clips", kept) if len(kept) >= _ENOUGH else ("clips", [*media.values()])
    chosen = names[:: -(-len(names) // MOST_CLIPS)] if names else []
    return f"{len(chosen)} of your {of}", chosen


def _sounds(artifacts: RunArtifacts, names: Sequence[str]) -> list[Waveform]:
    sounds = []
    for name in names:
        try:
            sounds.append(decode_audio(artifacts.path(name)).waveform)
        except (MediaError, OSError):
            continue
    return sounds
