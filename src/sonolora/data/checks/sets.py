"""How the clips of a dataset fit together. In: the measurements of all. Out: warnings about files or the dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from sonolora.analysis.compare import is_transposed, similarities
from sonolora.analysis.measure import Measured
from sonolora.core.errors import first_few
from sonolora.media.audio import SILENCE_DBFS

Warnings = list[tuple[str, str]]  # file, text

MIN_CLIPS = 10  # by the pages of all modes
SHORT_SHARE = 0.5
KEPT_SHARE = 0.9  # of the clips, at the length that is proposed

LOUDNESS_LU = 10.0  # twice as loud, or half
PEAK_LOUDNESS_LU = 15.0  # at one peak: single events and dense sounds of one kind differ by as much as 12
LOUDNESS_SPREADS = 3.0  # times the spread of the others
MIN_COMPARED = 4  # a median of fewer says little
NEAR_DUPLICATE = 0.87  # copies had 0.91 and more, different sentences of one voice up to 0.82; see `similarities`

_SAME = "both channels are the same (mono)"
_MAX_SHOWN = 3


def count_warnings(count: int) -> list[str]:
    """Too few clips, or pairs, or videos."""
    if not 0 < count < MIN_CLIPS:
        return []
    clips = "1 clip" if count == 1 else f"{count} clips"
    return [f"only {clips}: with fewer than {MIN_CLIPS} a LoRA tends to memorise them. Add more."]


def short_warnings(lengths: Sequence[float], skipped: int, field: str, wanted: float) -> list[str]:
    """Most clips skipped as too short for the request field `field`, and the value that would keep them.

    `lengths`: of all clips, in the unit of the field: seconds, or frames; `wanted`: the value of the field.
    """
    if skipped <= SHORT_SHARE * len(lengths) or not lengths:
        return []
    longest_kept = sorted(lengths)[len(lengths) - math.ceil(KEPT_SHARE * len(lengths))]
    if field == "number_of_frames":
        value: float = max(9, (int(longest_kept) - 1) // 8 * 8 + 1)
    else:
        value = max(0.5, math.floor(10 * longest_kept) / 10)
    kept = sum(length >= value for length in lengths)
    return [
        f"{skipped} of {len(lengths)} clips are skipped, because they are too short for {field} = {wanted:g}. With "
        f"{field} = {value:g}, {'all' if kept == len(lengths) else kept} of them would be used."
    ]


def set_warnings(clips: Sequence[tuple[str, Measured]], *, peak_normalized: bool) -> Warnings:
    """Duplicates, levels, and mono among stereo.

    `clips`: the sounds to learn, so without references. `peak_normalized`: whether training normalises them to one
    peak, which evens out levels.
    """
    audible = [(file, measured) for file, measured in clips if measured.peak_dbfs >= SILENCE_DBFS]
    return [*_duplicates(audible), *_loudness_outliers(audible, peak_normalized), *_mixed_images(audible)]


def _duplicates(clips: Sequence[tuple[str, Measured]]) -> Warnings:
    """One warning for every sound that repeats an earlier one."""
    warnings: Warnings = []
    seen: dict[str, str] = {}
    distinct: list[tuple[str, Measured]] = []
    for file, measured in clips:
        if other := seen.get(measured.digest):
            warnings.append((file, f"the same sound as {other}, sample for sample: it counts double. Remove one."))
        else:
            seen[measured.digest] = file
            distinct.append((file, measured))
    if len(distinct) < 2:
        return warnings
    alike = similarities([measured.fingerprint for _, measured in distinct])
    for index in range(1, len(distinct)):
        earlier = int(alike[index, :index].argmax())
        if alike[index, earlier] >= NEAR_DUPLICATE and not is_transposed(
            distinct[index][1].pitch_profile, distinct[earlier][1].pitch_profile
        ):
            warnings.append(
                (
                    distinct[index][0],
                    f"nearly the same sound as {distinct[earlier][0]} ({alike[index, earlier]:.0%} alike): another "
                    "copy, cut or level of one recording counts double. Keep the better one.",
                )
            )
    return warnings


def _loudness_outliers(clips: Sequence[tuple[str, Measured]], peak_normalized: bool) -> Warnings:
    levels = [
        (file, measured.lufs - (measured.peak_dbfs if peak_normalized else 0))
        for file, measured in clips
        if math.isfinite(measured.lufs)
    ]
    if len(levels) < MIN_COMPARED:
        return []
    middle = median(level for _, level in levels)
    spread = 1.4826 * median(abs(level - middle) for _, level in levels)  # a robust standard deviation
    limit = max(PEAK_LOUDNESS_LU if peak_normalized else LOUDNESS_LU, LOUDNESS_SPREADS * spread)
    at_one_peak = " at the same peak level" if peak_normalized else ""
    remedy = "Compress it, or remove it." if peak_normalized else "Match its level to theirs, or set audio_normalize."
    return [
        (
            file,
            f"{abs(level - middle):.0f} LU {'louder' if level > middle else 'softer'} than the others{at_one_peak}: "
            f"the LoRA learns levels, too. {remedy}",
        )
        for file, level in levels
        if abs(level - middle) > limit
    ]


def _mixed_images(clips: Sequence[tuple[str, Measured]]) -> Warnings:
    """One warning, at the first sound of the minority, where some are mono and some stereo."""
    mono = [file for file, measured in clips if measured.image in ("mono", "dual mono")]
    dual = {file for file, measured in clips if measured.image == "dual mono"}
    wide = [file for file, measured in clips if measured.image not in ("mono", "dual mono")]
    if not mono or not wide:
        return []
    fewer, kind = (mono, "mono") if len(mono) <= len(wide) else (wide, "stereo")
    kind = _SAME if fewer[0] in dual else kind
    others = f", and so are {first_few(fewer[1:], _MAX_SHOWN)}" if len(fewer) > 1 else ""
    return [
        (
            fewer[0],
            f"{kind}{others}, but {len(clips) - len(fewer)} of {len(clips)} are not: the LoRA learns both. Make them "
            "all one or the other.",
        )
    ]
