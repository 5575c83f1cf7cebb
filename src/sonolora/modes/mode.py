"""What a mode is: data and rules, and nothing of how training or sampling works.

A mode says which requests it takes, how the files of an archive make samples, and which layers its LoRA changes.
The rules work on file names alone; reading the files is the business of the `data` room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sonolora.modes.request import AudioRequest
from sonolora.names import stem_key

CAPTION_EXTENSION = ".txt"


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sample, by role; names are relative to the archive's root."""

    name: str
    audio: str
    caption: str | None = None


@dataclass(frozen=True)
class Pairing:
    """What the rule makes of an archive: its samples, and why each other file is left out."""

    samples: tuple[SampleFiles, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Mode:
    """One of the six modes; `name` is the wire name."""

    name: str
    summary: str
    request: type[AudioRequest]
    lora_targets: tuple[str, ...]
    pair: Callable[[Sequence[str]], Pairing]


def pair_clips(names: Sequence[str], extensions: Sequence[str]) -> Pairing:
    """Every file with one of `extensions` is a sample; a `.txt` of the same base name is its caption.

    Base names are compared without regard to folders: the pages want them unique across the archive.
    """
    captions = {stem_key(name): name for name in names if _extension(name) == CAPTION_EXTENSION}
    samples = [
        SampleFiles(PurePosixPath(name).stem, name, captions.get(stem_key(name)))
        for name in names
        if _extension(name) in extensions
    ]
    left_out = {}
    used = {file for sample in samples for file in (sample.audio, sample.caption)}
    for name in names:
        if name in used:
            continue
        if _extension(name) == CAPTION_EXTENSION:
            stem = PurePosixPath(name).stem
            left_out[name] = f"a caption without a clip: there is no {stem} with one of {', '.join(extensions)}"
        else:
            left_out[name] = f"not used by this mode, which takes {', '.join(extensions)} and {CAPTION_EXTENSION}"
    return Pairing(tuple(samples), left_out)


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
