"""The header `Range` by RFC 9110, section 14.

In: the header and the size of a file. Out: the ranges to send, `None` to send the whole file.
"""

from __future__ import annotations

import re

MAX_RANGES = 20  # a client that asks for more gets the whole file
_RANGES = re.compile(r"bytes=(.*)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
_MAX_DIGITS = 18


def byte_ranges(header: str, size: int) -> list[tuple[int, int]] | None:
    """(first, last) of each range in ascending order, overlapping ones joined; [] if none is in the file.

    `None` for a header to ignore: of another unit than bytes, malformed, or with too many ranges.
    """
    match = _RANGES.fullmatch(header.strip())
    if match is None:
        return None
    parts = [part for part in (part.strip(" \t") for part in match[1].split(",")) if part]
    if not 0 < len(parts) <= MAX_RANGES:
        return None
    ranges = []
    for part in parts:
        numbers = _RANGE.fullmatch(part)
        if numbers is None:
            return None
        if numbers[3]:
            first, last = max(size - _number(numbers[3]), 0), size - 1
        else:
            first, last = _number(numbers[1]), _number(numbers[2]) if numbers[2] else size - 1
            if numbers[2] and last < first:
                return None
        if first < size:
            ranges.append((first, min(last, size - 1)))
    return _joined(sorted(ranges))


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return joined


def _number(digits: str) -> int:
    """No file is as large as the largest of these."""
    return int(digits) if len(digits.lstrip("0")) <= _MAX_DIGITS else 10**_MAX_DIGITS
