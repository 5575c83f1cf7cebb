"""Audio inpainting: marked spans of a clip are regenerated, the rest is kept."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence

from pydantic import Field

from sonolora.core.errors import ErrorItem
from sonolora.core.frames import Span
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.modes.generate_request import GenerateRequest, GenerationSpec
from sonolora.modes.mode import Mode, regenerates_all
from sonolora.modes.pairing import pair_masked_clips
from sonolora.modes.preview_spec import MIN_SECONDS, PreviewSpec
from sonolora.modes.request import AudioRequest, ValidationEntry

_MIN_RANGE = 0.001  # seconds
_CUT_SECONDS = 0.05  # of a range that may be cut off without a warning: clips miss their length by that much


class InpaintEntry(ValidationEntry):
    """A validation entry with the clip and the seconds of it to regenerate."""

    audio_url: str
    time_ranges: list[list[float]]


class InpaintRequest(AudioRequest):
    """A request of the endpoint `audio-inpaint`."""

    validation: Sequence[InpaintEntry] = Field(
        default_factory=list, max_length=2, description="Up to two previews, each {prompt, audio_url, time_ranges}."
    )

    def faults(self) -> list[ErrorItem]:
        """Ranges that mark nothing in the preview."""
        faults = []
        for index, entry in enumerate(self.validation):
            try:
                spans_within(entry.time_ranges, self.preview_seconds)
            except ValueError as error:
                faults.append(ErrorItem(("body", "validation", index, "time_ranges"), str(error)))
        return faults


def parse_mask(text: str) -> list[Span]:
    """The ranges of a mask file, whatever their order and place. Raises `ValueError` with the reason in words."""
    try:
        ranges = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"not JSON ({why}); it must be a list such as [[1.0, 2.0], [3.5, 4.0]]") from error
    return _ranges(ranges)


def usable_ranges(ranges: Sequence[Span], seconds: float) -> tuple[tuple[Span, ...], list[str]]:
    """What of the ranges marks something in a clip of `seconds`, and a sentence about each that is cut or ignored."""
    spans, notes = [], []
    for start, end in ranges:
        shown = f"[{start:g}, {end:g}]"
        if end - start < _MIN_RANGE:
            notes.append(f"{shown} is ignored: its end must be after its start, by {_MIN_RANGE:g} s")
        elif start >= seconds or end <= 0:
            where = f"after the end of the clip, which is {seconds:g} s long"
            notes.append(f"{shown} is ignored: it lies {where if start >= seconds else 'before the start of the clip'}")
        else:
            kept = max(start, 0.0), min(end, seconds)
            spans.append(kept)
            if start < -_CUT_SECONDS or end > seconds + _CUT_SECONDS:
                notes.append(f"{shown} is cut to [{kept[0]:g}, {kept[1]:g}]: the clip is {seconds:g} s long")
    return tuple(spans), notes


def spans_within(ranges: object, seconds: float) -> tuple[Span, ...]:
    """Check the ranges of a request and cut them to [0, seconds].

    Raises `ValueError` naming a range that is empty or starts before 0 s, or saying that nothing is left: unlike a file
    among many, a request is corrected at once.
    """
    parsed = _ranges(ranges)
    for start, end in parsed:
        if start < 0:
            raise ValueError(f"[{start:g}, {end:g}] starts before 0 s")
        if end - start < _MIN_RANGE:
            raise ValueError(f"[{start:g}, {end:g}] is empty: its end must be after its start, by {_MIN_RANGE:g} s")
    spans, _ = usable_ranges(parsed, seconds)
    if not spans:
        raise ValueError(f"no range lies inside the clip, which is {seconds:g} s long: {reprlib.repr(ranges)}")
    return spans


def _ranges(value: object) -> list[Span]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"it must be a list of [start, end] in seconds, such as [[1.0, 2.0]], and is {reprlib.repr(value)}"
        )
    return [_range(entry) for entry in value]


def _range(value: object) -> Span:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    ):
        raise ValueError(f"{reprlib.repr(value)} is not a range [start, end] of two numbers of seconds")
    try:
        start, end = map(float, value)
    except OverflowError:  # an integer of hundreds of digits
        start = end = math.inf
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError(f"{reprlib.repr(value)} holds a number that is not finite")
    return start, end


def previews(request: InpaintRequest) -> list[PreviewSpec]:
    """One per validation entry."""
    return [
        PreviewSpec(
            entry.prompt,
            request.validation_negative_prompt,
            request.preview_seconds,
            source=entry.audio_url,
            regenerate=spans_within(entry.time_ranges, request.preview_seconds),
            normalize=request.audio_normalize,
            field=f"validation.{index}.audio_url",
        )
        for index, entry in enumerate(request.validation)
    ]


class InpaintGenerate(GenerateRequest):
    """A sound of which spans are regenerated; the rest of it stays as it is."""

    seconds: float | None = Field(
        None,
        ge=MIN_SECONDS,
        description="Use only this much of the clip, from its beginning; by default all of it.",
    )
    audio: str = Field(description="The clip, a file or URL.")
    time_ranges: list[list[float]] = Field(description="Seconds to regenerate, such as [[1.0, 2.0]].")
    audio_normalize: bool = Field(True, description="Bring the clip to the level of the training clips on the way.")

    def faults(self) -> list[ErrorItem]:
        """Ranges that mark nothing."""
        try:
            spans_within(self.time_ranges, self.seconds or math.inf)
        except ValueError as error:
            return [ErrorItem(("body", "time_ranges"), str(error))]
        return []

    def spec(self) -> GenerationSpec:
        return GenerationSpec(
            self.prompt,
            self.negative_prompt,
            self.seconds,
            source=self.audio,
            regenerate=spans_within(self.time_ranges, self.seconds or math.inf),
            normalize=self.audio_normalize,
            field="audio",
        )


AUDIO_INPAINT = Mode(
    name="audio-inpaint",
    summary="inpainting: marked spans of a clip are regenerated, the rest is kept",
    request=InpaintRequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair_masked_clips,
    regenerated=regenerates_all,  # every clip has a mask of its own
    previews=previews,
    generation=InpaintGenerate,
    kept=True,
)
