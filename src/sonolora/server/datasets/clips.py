"""The clips of a dataset as its mode sees them, also while it is not complete yet.

In: the names of the files. Out: `ClipFiles` with captions and masks, and the files that belong to no clip. Unlike
`modes.pairing`, which decides what is trained on, this accepts what is still missing and says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sonolora.core.file_names import name_key, stem_key
from sonolora.core.frames import Span
from sonolora.data.captions import read_caption
from sonolora.media.audio import AUDIO_EXTENSIONS
from sonolora.media.video import VIDEO_EXTENSIONS
from sonolora.modes import MODES
from sonolora.modes.audio_inpaint import parse_mask
from sonolora.modes.pairing import CAPTION_EXTENSION, END, MASK_ENDING, START, extension
from sonolora.server.datasets.dataset import Dataset, pair_stem


@dataclass(frozen=True)
class ClipFiles:
    """`missing`: what the mode needs and the clip lacks, in words."""

    name: str
    target: str | None
    reference: str | None = None
    caption: str = ""
    mask: tuple[Span, ...] = ()
    missing: str | None = None
    companions: tuple[str, ...] = ()  # the files of its caption and its mask

    @property
    def all_files(self) -> list[str]:
        return [name for name in (self.reference, self.target, *self.companions) if name]


def clips_of(dataset: Dataset) -> tuple[list[ClipFiles], list[str]]:
    """The clips by name, and the other files that are neither captions nor masks of clips."""
    mode, names = MODES[dataset.info.mode], dataset.names()
    extensions = VIDEO_EXTENSIONS if mode.video else AUDIO_EXTENSIONS
    media = [name for name in names if extension(name) in extensions]
    captions = {stem_key(name): name for name in names if extension(name) == CAPTION_EXTENSION}
    masks = {name_key(name[: -len(MASK_ENDING)]): name for name in names if name.lower().endswith(MASK_ENDING)}
    clips = _pairs(media) if mode.reference else [ClipFiles(Path(name).stem, name) for name in media]
    used = set(media)
    described = []
    for clip in clips:
        key = name_key(clip.name)
        caption, mask = captions.get(key), masks.get(key)
        text, missing = "", clip.missing
        spans: tuple[Span, ...] = ()
        if caption is not None:
            used.add(caption)
            text = _caption(dataset.files / caption)
        if mask is not None:
            used.add(mask)
            spans = _mask(dataset.files / mask)
        if mode.name == "audio-inpaint" and not spans:
            missing = "nothing is marked yet: drag on the spectrogram over what is to be regenerated"
        companions = tuple(filter(None, (caption, mask)))
        described.append(ClipFiles(clip.name, clip.target, clip.reference, text, spans, missing, companions))
    return described, [name for name in names if name not in used]


def _pairs(media: Sequence[str]) -> list[ClipFiles]:
    """References and targets by the name that they share."""
    roles: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    for name in media:
        stem = stem_key(name)
        role = START if stem.endswith(START) else END if stem.endswith(END) else ""
        key = name_key(pair_stem(name)) if role else stem
        names.setdefault(key, pair_stem(name) if role else Path(name).stem)
        roles.setdefault(key, {})[role] = name
    pairs = []
    for key, found in sorted(roles.items()):
        target, reference = found.get(END), found.get(START)
        missing = None
        if target is None and reference is None:
            target = found[""]
            missing = f"its name ends in neither {START} nor {END}: a pair is x{START} and x{END}"
        elif target is None:
            missing = f"no target: add {names[key]}{END} with the transformed sound"
        elif reference is None:
            missing = f"no reference: add {names[key]}{START} with the sound before the change"
        pairs.append(ClipFiles(names[key], target, reference, missing=missing))
    return pairs


def _caption(path: Path) -> str:
    try:
        return read_caption(path).text
    except (ValueError, OSError):  # the check says what is wrong with it
        return ""


def _mask(path: Path) -> tuple[Span, ...]:
    try:
        return tuple(parse_mask(path.read_text("utf-8-sig")))
    except (ValueError, OSError, json.JSONDecodeError):
        return ()
