"""Which clips are held out of training, to measure whether what is learnt holds for sounds that were not trained on.

In: the fitted clips of a dataset, and how many are wanted. Out: a `Split`. Clips of one recording (windows, scenes,
copies, cuts and levels of it) are never on both sides: they are grouped by the file that they are from, and by the
likeness of their sounds. Which recordings are held out depends on a hash of their files alone, and neither on names,
nor on the order of the archive, nor on the run's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sonolora.analysis.compare import fingerprint, similarities
from sonolora.core.errors import InputError, first_few
from sonolora.data.checks.sets import NEAR_DUPLICATE
from sonolora.data.clips import Clip
from sonolora.data.encoding_cache import content_hash
from sonolora.media.audio import Waveform

FROM_CLIPS = 12  # with fewer none are held out, unless they are asked for
_ONE_IN = 10
_AT_LEAST, _AT_MOST = 2, 16
_MAX_SHOWN = 4
_WITHOUT = (
    "Without them the run cannot tell learning from memorising, and there is no best.safetensors: --held-out N, or a "
    "share such as 0.2, keeps clips out of training for that."
)


@dataclass(frozen=True)
class Split:
    """Indices of clips. `recordings`: for each clip the number of its recording; `note`: the split in words."""

    held_out: tuple[int, ...]
    recordings: tuple[int, ...]
    note: str

    @property
    def trained(self) -> tuple[int, ...]:
        """The other clips."""
        return tuple(index for index in range(len(self.recordings)) if index not in set(self.held_out))


def wanted_count(setting: float | None, clips: int) -> int:
    """How many clips are to be held out: a count, a share below 1, or None: one in ten (2 to 16) of 12 or more.

    Raises `InputError` when none would be left to train on.
    """
    if setting is None:
        return min(max((clips + _ONE_IN // 2) // _ONE_IN, _AT_LEAST), _AT_MOST) if clips >= FROM_CLIPS else 0
    count = max(1, round(setting * clips)) if 0 < setting < 1 else int(setting)
    if count >= clips and count:
        raise InputError.of("held_out", f"must leave clips to train on: {count} of {clips} are too many")
    return count


def split_clips(clips: Sequence[Clip], setting: float | None) -> Split:
    """Choose the clips to hold out. Raises as `wanted_count`."""
    count = wanted_count(setting, len(clips))
    if not count:
        return Split((), tuple(range(len(clips))), _no_clips(setting, len(clips)))
    recordings = _recordings(clips)
    groups: dict[int, list[int]] = {}
    for index, recording in enumerate(recordings):
        groups.setdefault(recording, []).append(index)
    held_out = _choose(list(groups.values()), [_source(clip, at) for at, clip in enumerate(clips)], count)
    if not held_out:
        why = f"nearly all of the {len(clips)} clips are from one recording, or sound like it"
        return Split((), recordings, f"no clips are held out: {why}. {_WITHOUT}")
    names = first_few([clips[index].name for index in held_out], _MAX_SHOWN)
    short = f" ({count} were wanted; clips of one recording stay together)" if len(held_out) != count else ""
    return Split(held_out, recordings, f"held out of training: {len(held_out)} of {len(clips)} clips{short}: {names}")


def _no_clips(setting: float | None, clips: int) -> str:
    why = "as asked" if setting is not None else f"there are fewer than {FROM_CLIPS}"
    return f"no clips are held out of {clips}: {why}. {_WITHOUT}"


def _choose(groups: Sequence[Sequence[int]], sources: Sequence[str], count: int) -> tuple[int, ...]:
    """Whole recordings in the order of their hashes, as many as fit into `count` clips.

    When none fits, the smallest is held out, if at least half of all clips remain.
    """
    hashed = sorted(groups, key=lambda group: content_hash("held out", min(sources[index] for index in group)))
    held_out: list[int] = []
    for group in hashed:
        if len(held_out) + len(group) <= count:
            held_out += group
    if not held_out:
        smallest = min(hashed, key=len)
        held_out = list(smallest) if 2 * len(smallest) <= len(sources) else []
    return tuple(sorted(held_out))


def _source(clip: Clip, index: int) -> str:
    return clip.source or f"{index} {clip.name}"


def _recordings(clips: Sequence[Clip]) -> tuple[int, ...]:
    """The number of each clip's recording."""
    roots = list(range(len(clips)))

    def root(index: int) -> int:
        while roots[index] != index:
            index = roots[index]
        return index

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        roots[high] = low

    first: dict[str, int] = {}
    for index, clip in enumerate(clips):
        # A reference with several targets makes them variants of one recording, too.
        for source in filter(None, (_source(clip, index), clip.reference_source)):
            join(first.setdefault(source, index), index)
    for sounds in ([clip.audio for clip in clips], [clip.reference for clip in clips]):
        for one, other in _alike(sounds):
            join(one, other)
    return tuple(root(index) for index in range(len(clips)))


def _alike(sounds: Sequence[Waveform | None]) -> list[tuple[int, int]]:
    """Indices of the pairs that are of one recording."""
    present = [index for index, sound in enumerate(sounds) if sound is not None]
    if len(present) < 2:
        return []
    likeness = similarities([fingerprint(sound) for sound in sounds if sound is not None])
    return [(present[one], present[other]) for one, other in np.argwhere(np.triu(likeness, 1) >= NEAR_DUPLICATE)]
