"""The warnings of a report, grouped: one finding for all files of which the same is true.

In: the report, as `Report.as_json` gives it. Out: findings, those of the whole set first. Two warnings are one finding
when they differ in their numbers and file names alone; the finding says between which numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sonolora.core.errors import first_few

_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")
_NAME = "\0"
_MAX_NAMES = 3


@dataclass(frozen=True)
class Finding:
    """`files`: those it is about, in order; none where it is about the set as a whole."""

    text: str
    files: tuple[str, ...]


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """Of the whole set first, then by the number of files."""
    names = sorted((entry["file"] for entry in report["files"]), key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, names))) if names else None
    grouped: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for entry in report["files"]:
        for text in entry["warnings"]:
            key, values = _parts(text, known)
            grouped.setdefault(key, []).append((entry["file"], values))
    about_files = [
        Finding(_filled(key, [values for _, values in members]), tuple(dict.fromkeys(file for file, _ in members)))
        for key, members in grouped.items()
    ]
    about_files.sort(key=lambda finding: -len(finding.files))
    return [*(Finding(text, ()) for text in report["warnings"]), *about_files]


def _parts(text: str, names: re.Pattern[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """What stays the same from file to file, and what stood between: names of files, and numbers."""
    found = [(match.span(), _NAME + match[0]) for match in (names.finditer(text) if names else ())]
    for match in _NUMBER.finditer(text):
        if not any(start < match.end() and match.start() < end for (start, end), _ in found):
            found.append((match.span(), match[0]))
    fixed, values, position = [], [], 0
    for (start, end), value in sorted(found):
        fixed.append(text[position:start] + (_NAME if value.startswith(_NAME) else ""))
        values.append(value)
        position = end
    return (*fixed, text[position:]), values


def _filled(fixed: Sequence[str], values: Sequence[Sequence[str]]) -> str:
    """The sentence, with what each gap holds in all of its instances."""
    parts: Iterator[str] = (_between(gap) for gap in zip(*values, strict=True))
    return "".join(text.removesuffix(_NAME) + value for text, value in zip(fixed, [*parts, ""], strict=True))


def _between(values: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0].removeprefix(_NAME)
    if distinct[0].startswith(_NAME):
        return first_few([name.removeprefix(_NAME) for name in distinct], _MAX_NAMES)
    by_size = sorted(distinct, key=lambda number: float(number.replace(",", "")))
    return f"{by_size[0]} to {by_size[-1]}"
