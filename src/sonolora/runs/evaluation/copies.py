"""Are the sounds of a LoRA copies of training clips? Likenesses with every clip, beside those of sounds that are new.

In: the clips of a run as trained, later its previews or a generated sound. Out: an artifact with the clips' patterns,
and what `evaluation.json` and `generate` say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolora.analysis.copies import is_copy, likenesses, pattern
from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import SonoloraError
from sonolora.core.frames import Span
from sonolora.data.clips import Clip
from sonolora.data.held_out import Split
from sonolora.media.audio import Waveform
from sonolora.runs.artifacts import PATTERNS, RunArtifacts

_MAX_NEW = 16  # real sounds whose likenesses tell what new sounds reach


@dataclass(frozen=True)
class Patterns:
    """Of the clips of a run. `recordings`: clips of one recording have the same number."""

    names: Sequence[str]
    recordings: Sequence[int]
    held_out: frozenset[int]  # indices
    patterns: Sequence[Tensor]

    @property
    def trained(self) -> list[int]:
        """Indices of the training clips."""
        return [index for index in range(len(self.names)) if index not in self.held_out]

    def new(self) -> tuple[str, list[float]]:
        """How much real sounds that are not copies are like a training clip, and which sounds these are."""
        chosen = sorted(self.held_out) or self.trained
        chosen = chosen[:: -(-len(chosen) // _MAX_NEW)] if chosen else []
        best = [0.0] * len(chosen)
        for clip in self.trained:
            found = likenesses([self.patterns[index] for index in chosen], self.patterns[clip])
            for at, index in enumerate(chosen):
                if self.recordings[index] != self.recordings[clip]:
                    best[at] = max(best[at], found[at])
        of = "held-out clips" if self.held_out else "training clips, each with the others"
        return of, sorted(round(one, 4) for one in best) if len(self.trained) > 1 or self.held_out else []

    def nearest(self, sounds: Sequence[Tensor], among: Sequence[int], without: Sequence[str | None]) -> list[Any]:
        """For each pattern the clip that it is most like, with the likeness; None where there is none."""
        best: list[dict[str, Any] | None] = [None] * len(sounds)
        for clip in among:
            for at, likeness in enumerate(likenesses(sounds, self.patterns[clip])):
                known = best[at]
                if self.names[clip] != without[at] and (known is None or likeness > known["likeness"]):
                    best[at] = {"clip": self.names[clip], "likeness": round(likeness, 4)}
        return best


def put_patterns(artifacts: RunArtifacts, clips: Sequence[Clip], split: Split) -> None:
    """Keep the patterns of a run's clips."""
    tensors = {str(index): pattern(clip.audio).half() for index, clip in enumerate(clips)}
    about = {
        "names": [clip.name for clip in clips],
        "recordings": list(split.recordings),
        "held_out": list(split.held_out),
    }
    artifacts.put(PATTERNS, partial(save_checked, tensors=tensors, metadata={"clips": json.dumps(about)}))


def load_patterns(path: Path) -> Patterns | None:
    """None where there are none, as in a run of an earlier version, or the file is damaged."""
    if not path.is_file():
        return None
    try:
        tensors, metadata = load_checked(path)
        about = json.loads(metadata["clips"])
        patterns = [tensors[str(index)].float() for index in range(len(about["names"]))]
        return Patterns(about["names"], about["recordings"], frozenset(about["held_out"]), patterns)
    except (SonoloraError, KeyError, ValueError):
        return None


def likeness_of_previews(
    patterns: Patterns, previews: Sequence[tuple[str, Waveform, Sequence[Span]]], sources: Sequence[str | None]
) -> dict[str, Any]:
    """For `evaluation.json`. A preview has its prompt, its sound and the spans that are generated, none for all of it.

    `sources`: for each the clip that it is made from, and may well be like.
    """
    of, new = patterns.new()
    sounds = [pattern(_generated(sound, spans)) for _, sound, spans in previews]
    trained = patterns.nearest(sounds, patterns.trained, sources)
    held_out = patterns.nearest(sounds, sorted(patterns.held_out), [None] * len(sounds))
    return {
        "copies": [
            {
                "number": number,
                "prompt": prompt,
                "training": trained[number - 1],
                "held_out": held_out[number - 1],
                "copy": is_copy(trained[number - 1]["likeness"], new),
            }
            for number, (prompt, _, _) in enumerate(previews, start=1)
            if trained[number - 1] is not None
        ],
        "likeness_of_new_sounds": {"of": of, "values": new},
    }


def _generated(sound: Waveform, spans: Sequence[Span]) -> Waveform:
    """The longest of the spans."""
    if not spans:
        return sound
    start, end = max(spans, key=lambda span: span[1] - span[0])
    first, last = (round(edge * sound.sample_rate) for edge in (start, end))
    return replace(sound, samples=sound.samples[:, first:last])


def describe_likeness(patterns: Patterns, sound: Waveform) -> str | None:
    """What `generate` says of a sound."""
    (found,) = patterns.nearest([pattern(sound)], patterns.trained, [None])
    of, new = patterns.new()
    if found is None:
        return None
    text = f"most like the training clip {found['clip']}: likeness {found['likeness']:.2f}"
    if new:
        middle = torch.tensor(new).median().item()
        text += f"; {of} reach {middle:.2f} in the middle, {max(new):.2f} at most"
    return f"{text}. It is a copy of a part of it" if is_copy(found["likeness"], new) else text
