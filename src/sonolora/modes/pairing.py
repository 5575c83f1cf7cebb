"""The rules by which file names make samples, shared by the modes.

Base names are compared without regard to folders, case and Unicode form: the pages want them unique across the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from sonolora.core.errors import ErrorItem, InputError
from sonolora.core.file_names import name_key, stem_key
from sonolora.media.audio import AUDIO_EXTENSIONS
from sonolora.modes.mode import Pairing, SampleFiles

CAPTION_EXTENSION = ".txt"
MASK_ENDING = "_mask.json"
START, END = "_start", "_end"


def extension(name: str) -> str:
    """The extension in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def stem(name: str) -> str:
    """The name without folders and extension."""
    return PurePosixPath(name).stem


def pair_clips(names: Sequence[str], extensions: Sequence[str] = AUDIO_EXTENSIONS) -> Pairing:
    """Every file with one of `extensions` is a sample; a `.txt` of the same base name is its caption."""
    captions = _captions(names)
    samples = tuple(
        SampleFiles(stem(name), name, captions.get(stem_key(name))) for name in names if extension(name) in extensions
    )
    return Pairing(samples, _skipped(names, samples, extensions))


def pair_masked_clips(names: Sequence[str]) -> Pairing:
    """As `pair_clips`, and every clip has a `<name>_mask.json`. Raises `InputError` for one without the other."""
    captions = _captions(names)
    masks = {
        name_key(PurePosixPath(name).name[: -len(MASK_ENDING)]): name
        for name in names
        if name.lower().endswith(MASK_ENDING)
    }
    clips = {stem_key(name): name for name in names if extension(name) in AUDIO_EXTENSIONS}
    _refuse(
        *(
            f"{name} has no mask: add {stem(name)}{MASK_ENDING} with the seconds to regenerate, such as [[1.0, 2.0]]"
            for key, name in clips.items()
            if key not in masks
        ),
        *(
            f"{name} belongs to no clip: add one named {PurePosixPath(name).name[: -len(MASK_ENDING)]} or remove it"
            for key, name in masks.items()
            if key not in clips
        ),
    )
    samples = tuple(SampleFiles(stem(name), name, captions.get(key), mask=masks[key]) for key, name in clips.items())
    return Pairing(samples, _skipped(names, samples, (*AUDIO_EXTENSIONS, MASK_ENDING)))


def pair_references(names: Sequence[str]) -> Pairing:
    """`<name>_start` is the reference, `<name>_end` the target, `<name>.txt` the caption.

    Raises `InputError` for a target without reference. A reference without target is left out, and so is audio that
    is neither.
    """
    captions = _captions(names)
    audio = [name for name in names if extension(name) in AUDIO_EXTENSIONS]
    starts = {key.removesuffix(START): name for name in audio if (key := stem_key(name)).endswith(START)}
    ends = {key.removesuffix(END): name for name in audio if (key := stem_key(name)).endswith(END)}
    _refuse(
        *(
            f"{name} has no reference: add {stem(name)[: -len(END)]}{START} with one of {', '.join(AUDIO_EXTENSIONS)}"
            for key, name in ends.items()
            if key not in starts
        )
    )
    samples = tuple(
        SampleFiles(stem(name)[: -len(END)], name, captions.get(key), reference=starts[key])
        for key, name in ends.items()
    )
    skipped = _skipped(names, samples, AUDIO_EXTENSIONS)
    for name in skipped.keys() & set(audio):
        skipped[name] = (
            f"a reference without its target {stem(name)[: -len(START)]}{END}"
            if stem_key(name).endswith(START)
            else f"neither a reference nor a target: a pair needs x{START} and x{END}, and its name has neither ending"
        )
    return Pairing(samples, skipped)


def _captions(names: Sequence[str]) -> Mapping[str, str]:
    return {stem_key(name): name for name in names if extension(name) == CAPTION_EXTENSION}


def _skipped(names: Sequence[str], samples: Iterable[SampleFiles], taken: Sequence[str]) -> dict[str, str]:
    used = {file for one in samples for file in (one.target, one.caption, one.reference, one.mask)}
    return {
        name: f"a caption without a clip: nothing that is used is named {stem(name)}"
        if extension(name) == CAPTION_EXTENSION
        else f"not used by this mode, which takes {', '.join(taken)} and {CAPTION_EXTENSION}"
        for name in names
        if name not in used
    }


def _refuse(*faults: str) -> None:
    if faults:
        raise InputError([ErrorItem(("body", "training_data_url"), fault) for fault in faults])
