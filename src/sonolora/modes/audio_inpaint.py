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

_LEAST_RANGE = 0.001  # seconds


class InpaintEntry(ValidationEntry):
    """A preview: the clip, and the seconds of it to regenerate."""

    audio_url: str
    time_ranges: list[list[float]]


class InpaintRequest(AudioRequest):
    """A request of the endpoint `audio-inpaint`."""

    validation: Sequence[InpaintEntry] = Field(
        default_factory=list, max_length=2, description="Up to two previews, each {prompt, audio_url, time_ranges}."
    )

    def faults(self) -> list[ErrorItem]:
        """Ranges that mark nothing in the preview."""
        found = []
        for index, entry in enumerate(self.validation):
            try:
                spans_within(entry.time_ranges, self.preview_seconds)
            except ValueError as error:
                found.append(ErrorItem(("body", "validation", index, "time_ranges"), str(error)))
        return found


def parse_mask(text: str, seconds: float) -> tuple[Span, ...]:
    """The spans of a mask file, cut to a clip of `seconds`. Raises `ValueError` with the reason in words."""
    try:
        ranges = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"not JSON ({why}); it should be a list such as [[1.0, 2.0], [3.5, 4.0]]") from error
    return spans_within(ranges, seconds)


def spans_within(ranges: object, seconds: float) -> tuple[Span, ...]:
    """Check a list of [start, end] seconds and cut it to [0, seconds].

    What lies partly outside is cut, wholly outside ignored. Raises `ValueError` naming the range that is wrong, or
    saying that nothing is left.
    """
    if not isinstance(ranges, list) or not ranges:
        raise ValueError(
            f"it should be a list of [start, end] seconds, such as [[1.0, 2.0]], and is {reprlib.repr(ranges)}"
        )
    spans = []
    for number in ranges:
        start, end = _span(number)
        if start < seconds:
            spans.append((start, min(end, seconds)))
    if not spans:
        raise ValueError(f"no range lies inside the clip, which is {seconds:g} s long: {reprlib.repr(ranges)}")
    return tuple(spans)


def _span(value: object) -> Span:
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
    if start < 0:
        raise ValueError(f"{reprlib.repr(value)} begins before 0 s")
    if end - start < _LEAST_RANGE:
        raise ValueError(f"{reprlib.repr(value)} is empty: its start must be less than its end, by {_LEAST_RANGE:g} s")
    return start, end


def previews(request: InpaintRequest) -> list[PreviewSpec]:
    """One for each validation entry."""
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
    summary="inpainting: marked spans of a clip are made anew, the rest is kept",
    request=InpaintRequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair_masked_clips,
    regenerated=regenerates_all,  # every clip has a mask of its own
    previews=previews,
    generation=InpaintGenerate,
    kept=True,
)
