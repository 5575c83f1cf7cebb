"""Faults of captions. In: the captions as they are trained. Out: warnings about their files."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median

from sonolora.core.errors import first_few
from sonolora.data.checks.sets import MIN_COMPARED, Warnings

# By the pages' examples: `rain`, `drums` and `walking` are weak captions.
MIN_WORDS = 2  # besides articles and the trigger phrase
LENGTH_RATIO = 5.0  # between a caption and the typical one, in words: a label among descriptions
MIN_LENGTH_DIFFERENCE = 8  # words

_ARTICLES = frozenset({"a", "an", "the"})
_MAX_SHOWN = 3
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")  # names of characters


def caption_warnings(
    captions: Sequence[tuple[str, str]], trigger: str, count_tokens: Callable[[str], int], max_tokens: int
) -> Warnings:
    """`captions`: files, and the texts as they are trained, with the trigger phrase in front."""
    trigger = " ".join(trigger.split())
    warnings: Warnings = []
    same: defaultdict[str, list[str]] = defaultdict(list)
    for file, text in captions:
        if text == trigger:
            what = "the trigger phrase alone" if trigger else "an empty prompt, so no words will recall it"
            warnings.append((file, f"no caption: it is trained with {what}. Describe the sound in a .txt file."))
            continue
        same[text.casefold()].append(file)
        if trigger and re.match(rf"{re.escape(trigger)} {re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
            warnings.append(
                (
                    file,
                    f"is trained as '{_start(text)}', with the trigger phrase twice: it is prepended to every caption "
                    "that does not begin with exactly it. Remove it from this one.",
                )
            )
        if (tokens := count_tokens(text)) > max_tokens:
            warnings.append(
                (file, f"has {tokens} tokens, and anything after the first {max_tokens} is not read. Shorten it.")
            )
    for files in same.values():
        if len(files) > 1:
            warnings.append((files[0], _same_caption(files, len(captions))))
    described = [(file, _without_trigger(text, trigger)) for file, text in captions if text != trigger]
    return [
        *warnings,
        *_weak_captions(described),
        *_inconsistent_captions(described),
        *([] if trigger else _forgotten_trigger(captions)),
    ]


def _same_caption(files: Sequence[str], captions: int) -> str:
    if len(files) == captions:
        return (
            f"all {captions} captions are the same, so the LoRA cannot tell the sounds apart by words. Write in each "
            "what is particular to its sound."
        )
    others = first_few(files[1:], _MAX_SHOWN)
    return f"has the same caption as {others}: words cannot tell them apart. Write what is particular to each sound."


def _without_trigger(text: str, trigger: str) -> str:
    return text.removeprefix(f"{trigger} ") if trigger else text


def _weak_captions(captions: Sequence[tuple[str, str]]) -> Warnings:
    """One warning, at the first, for all captions of a single word."""
    weak = [(file, text) for file, text in captions if 0 < _word_count(text) < MIN_WORDS]
    if not weak:
        return []
    others = f", and so are {first_few([file for file, _ in weak[1:]], _MAX_SHOWN)}" if len(weak) > 1 else ""
    return [
        (
            weak[0][0],
            f"'{_start(weak[0][1])}' is a weak caption{others}: one word describes many sounds. Describe this one, "
            "such as 'a soft rain shower on a tin roof' instead of 'rain'.",
        )
    ]


def _inconsistent_captions(captions: Sequence[tuple[str, str]]) -> Warnings:
    """Captions of another style than most: much shorter or longer, or in another script."""
    if len(captions) < MIN_COMPARED:
        return []
    counts = [_word_count(text) for _, text in captions]
    typical = median(counts)
    warnings: Warnings = []
    odd = [
        file
        for (file, _), count in zip(captions, counts, strict=True)
        if abs(count - typical) >= MIN_LENGTH_DIFFERENCE
        and (count > LENGTH_RATIO * typical or LENGTH_RATIO * count < typical)
    ]
    # Where lengths are spread out evenly there is no style to deviate from.
    if 0 < len(odd) <= len(captions) / 4:
        index = next(index for index, (file, _) in enumerate(captions) if file == odd[0])
        others = f", as have {first_few(odd[1:], _MAX_SHOWN)}" if len(odd) > 1 else ""
        warnings.append(
            (
                odd[0],
                f"has {counts[index]} words{others}, where captions here have {typical:g}: inconsistent captions are "
                "harder to prompt. Write them all in one style.",
            )
        )
    scripts = [_script(text) for _, text in captions]
    common = max(set(scripts), key=scripts.count)
    strange = [file for (file, _), script in zip(captions, scripts, strict=True) if script and script != common]
    if common and strange:
        others = f", and so are {first_few(strange[1:], _MAX_SHOWN)}" if len(strange) > 1 else ""
        warnings.append(
            (
                strange[0],
                f"is in another script than most captions{others}: prompts in one language will not recall both. Use "
                "one language.",
            )
        )
    return warnings


def _word_count(text: str) -> int:
    """Words besides articles; in scripts without spaces every two letters count as one."""
    letters = sum(_is_spaceless(character) for character in text)
    words = re.findall(r"\w+", "".join(" " if _is_spaceless(character) else character for character in text))
    return sum(word.casefold() not in _ARTICLES for word in words) + math.ceil(letters / 2)


def _is_spaceless(character: str) -> bool:
    return character > "\u0dff" and unicodedata.name(character, "").startswith(_SPACELESS)


def _script(text: str) -> str:
    """The script of most letters, such as LATIN; '' without letters. Chinese and Japanese count as one."""
    letters = [character for character in text if character.isalpha()]
    scripts = [unicodedata.name(character, "").split(" ")[0] for character in letters]
    scripts = ["CJK" if script in ("HIRAGANA", "KATAKANA") else script for script in scripts]
    return max(set(scripts), key=scripts.count, default="")


def _forgotten_trigger(captions: Sequence[tuple[str, str]]) -> Warnings:
    """Where most captions begin with a made-up word, such as f0leyvox, those that lack it."""
    first = [text.split()[0].strip(",.:;").casefold() if text else "" for _, text in captions]
    word = max(set(first), key=first.count, default="")
    count = first.count(word)
    is_made_up = re.fullmatch(r"(?=.*\d)(?=.*[^\W\d_])\w+", word) is not None
    if not is_made_up or 2 * count <= len(captions) or count < MIN_COMPARED - 1:
        return []
    return [
        (
            file,
            f"lacks '{word}', with which {count} of {len(captions)} captions begin. If that is the trigger phrase, set "
            "trigger_phrase: it is then prepended to every caption.",
        )
        for (file, _), begins in zip(captions, first, strict=True)
        if begins != word
    ]


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40].rstrip()}…"
