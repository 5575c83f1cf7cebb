"""The rules by which file names make samples, shared by the modes.

Base names are compared regardless of folder, letter case and Unicode form: the pages require them to be unique in the
archive. Only names that make a sample ambiguous are an error; equal names of other files do no harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from sonolora.core.errors import ErrorItem, InputError, first_few
from sonolora.core.file_names import name_key, stem_key
from sonolora.media.audio import AUDIO_EXTENSIONS
from sonolora.modes.mode import Pairing, SampleFiles

CAPTION_EXTENSION = ".txt"
CAPTION_TABLES = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's AudioFolder and VideoFolder
MASK_ENDING = "_mask.json"
START, END = "_start", "_end"
_OTHER_CAPTIONS = (".caption", ".captions", ".text", ".md", ".rtf", ".doc", ".docx", ".odt", ".pages", ".json", ".lab")
_MAX_SHOWN = 10

_Groups = Mapping[str, Sequence[str]]  # names by key


def extension(name: str) -> str:
    """The extension in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def stem(name: str) -> str:
    """The name without folders and extension."""
    return PurePosixPath(name).stem


def pair_clips(names: Sequence[str], extensions: Sequence[str] = AUDIO_EXTENSIONS) -> Pairing:
    """Every file with one of `extensions` is a sample; a `.txt` of the same base name is its caption."""
    clips, captions = _grouped(names, extensions), _grouped(names, [CAPTION_EXTENSION])
    _refuse_equal_names(clips, captions, clips)
    samples = [SampleFiles(stem(name), name, _one(captions, key)) for key, (name,) in clips.items()]
    return _pairing(names, samples, extensions)


def pair_masked_clips(names: Sequence[str]) -> Pairing:
    """As `pair_clips`, and every clip has a `<name>_mask.json`. Raises `InputError` that names clips without one."""
    clips, captions = _grouped(names, AUDIO_EXTENSIONS), _grouped(names, [CAPTION_EXTENSION])
    mask_names = [name for name in names if name.lower().endswith(MASK_ENDING)]
    masks = _grouped(mask_names, [".json"], lambda name: name_key(_without_mask_ending(name)))
    _refuse_equal_names(clips, captions, clips)
    _refuse_equal_names({}, masks, clips)
    _refuse(
        f"{name} has no mask: add {stem(name)}{MASK_ENDING} with the seconds to regenerate, such as [[1.0, 2.0]]"
        for key, (name,) in clips.items()
        if key not in masks
    )
    samples = [SampleFiles(stem(name), name, _one(captions, key), mask=masks[key][0]) for key, (name,) in clips.items()]
    pairing = _pairing(names, samples, (*AUDIO_EXTENSIONS, MASK_ENDING))
    skipped = dict(pairing.skipped)
    for name in skipped:
        if name.lower().endswith(MASK_ENDING):
            skipped[name] = f"a mask without a clip: none is named {_without_mask_ending(name)}"
    return Pairing(pairing.samples, skipped, pairing.caption_tables)


def pair_references(names: Sequence[str]) -> Pairing:
    """`<name>_start` is the reference, `<name>_end` the target, `<name>.txt` the caption.

    Raises `InputError` for a target without a reference. A reference without a target is skipped, and so is audio that
    is neither.
    """
    clips, captions = _grouped(names, AUDIO_EXTENSIONS), _grouped(names, [CAPTION_EXTENSION])
    starts = {key.removesuffix(START): group for key, group in clips.items() if key.endswith(START)}
    ends = {key.removesuffix(END): group for key, group in clips.items() if key.endswith(END)}
    _refuse_equal_names(starts, captions, ends)
    _refuse_equal_names(ends, {}, ends)
    _refuse(
        f"{name} has no reference: add {stem(name)[: -len(END)]}{START} with one of {', '.join(AUDIO_EXTENSIONS)}"
        for key, (name,) in ends.items()
        if key not in starts
    )
    samples = [
        SampleFiles(stem(name)[: -len(END)], name, _one(captions, key), reference=starts[key][0])
        for key, (name,) in ends.items()
    ]
    pairing = _pairing(names, samples, AUDIO_EXTENSIONS)
    skipped = dict(pairing.skipped)
    for name in skipped:
        if extension(name) in AUDIO_EXTENSIONS:
            skipped[name] = (
                f"a reference without its target {stem(name)[: -len(START)]}{END}"
                if stem_key(name).endswith(START)
                else f"neither a reference nor a target: its name ends in neither {START} nor {END}, and a pair needs "
                f"x{START} and x{END}"
            )
    return Pairing(pairing.samples, skipped, pairing.caption_tables)


def _grouped(
    names: Iterable[str], extensions: Sequence[str], key: Callable[[str], str] = stem_key
) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        if extension(name) in extensions:
            groups[key(name)].append(name)
    return dict(groups)


def _one(groups: _Groups, key: str) -> str | None:
    return groups[key][0] if key in groups else None


def _without_mask_ending(name: str) -> str:
    return PurePosixPath(name).name[: -len(MASK_ENDING)]


def _pairing(names: Sequence[str], samples: Sequence[SampleFiles], taken: Sequence[str]) -> Pairing:
    """A pairing with a reason for every file that is of no sample."""
    used = {file for one in samples for file in (one.target, one.caption, one.reference, one.mask)}
    tables = [name for name in names if PurePosixPath(name).name.lower() in CAPTION_TABLES]
    by_key = {name_key(one.name): one for one in samples}
    skipped = {
        name: _near_caption(name, by_key) or _reason(name, taken)
        for name in names
        if name not in used and name not in tables
    }
    return Pairing(tuple(samples), skipped, tuple(tables))


def _reason(name: str, taken: Sequence[str]) -> str:
    if extension(name) == CAPTION_EXTENSION:
        return "a caption without a clip: no clip that is used has its name"
    return f"not used by this mode, which takes {', '.join(taken)} and {CAPTION_EXTENSION}"


def _near_caption(name: str, samples: Mapping[str, SampleFiles]) -> str:
    """What to do about a file that is a caption by intention but not by name: `a.wav.txt`, `a.caption`; else ''."""
    if extension(name) not in (CAPTION_EXTENSION, *_OTHER_CAPTIONS):
        return ""
    base = stem(name)
    while base:
        for key in (name_key(base), name_key(base).removesuffix(START), name_key(base).removesuffix(END)):
            if sample := samples.get(key):
                wanted = f"{sample.name}{CAPTION_EXTENSION}"
                if sample.caption is not None:
                    return f"not read: the caption of {sample.target} is {sample.caption}"
                if extension(name) in (CAPTION_EXTENSION, ".caption", ".captions", ".text", ".md"):
                    return f"not read as the caption of {sample.target}: rename it to {wanted}"
                return f"not read as the caption of {sample.target}: save its text, as plain text, as {wanted}"
        shorter = stem(base)
        base = "" if shorter == base else shorter
    return ""


def _refuse_equal_names(clips: _Groups, companions: _Groups, used: Iterable[str]) -> None:
    """Raise one InputError with all clips, and all companions of clips that are used, that share a name."""
    groups = [*clips.values(), *(companions[key] for key in used if key in companions)]
    collisions = [first_few(group, _MAX_SHOWN) for group in groups if len(group) > 1]
    if collisions:
        raise InputError.in_dataset(
            "file names must be unique across the archive, whatever their folder, letter case or format. "
            f"Rename all but one of: {first_few(collisions, _MAX_SHOWN, '; ')}."
        )


def _refuse(faults: Iterable[str]) -> None:
    if items := [ErrorItem(("body", "training_data_url"), fault) for fault in faults]:
        raise InputError(items)
