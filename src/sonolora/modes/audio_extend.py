"""Audio extension in both directions. Note the wire names: suffix and prefix are the part that is *given*.

`audio-extend-suffix` (backward) keeps the closing seconds of a clip and generates what leads up to them;
`audio-extend-prefix` (forward) keeps the opening seconds and generates what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from sonolora.core.errors import ErrorItem
from sonolora.core.frames import FRAME_SECONDS, Span
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.modes.generate_request import MAX_LONG_SECONDS, GenerateRequest, GenerationSpec
from sonolora.modes.mode import Mode
from sonolora.modes.pairing import pair_clips
from sonolora.modes.preview_spec import MIN_SECONDS, PreviewSpec
from sonolora.modes.request import MAX_PREVIEW_FRAMES, AudioRequest, ValidationEntry

_ROUNDING = 1e-6


def _new_span(seconds: float, given: float, *, at_end: bool) -> tuple[Span, ...]:
    """The seconds to generate."""
    return ((0.0, seconds - given),) if at_end else ((given, seconds),)


def _nothing_new(lengths: Sequence[tuple[str, float]], given: float) -> list[ErrorItem]:
    """A fault for each length in which the kept part leaves less than a latent frame to generate."""
    return [
        ErrorItem(
            ("body", "conditioning_seconds"),
            f"{given:g} s must be less than {name} ({seconds:.4g} s), by at least one frame of {FRAME_SECONDS:g} s, or "
            "nothing is left to generate",
        )
        for name, seconds in lengths
        if seconds - given < FRAME_SECONDS - _ROUNDING
    ]


class ExtendEntry(ValidationEntry):
    """A validation entry with the clip to extend, at least `conditioning_seconds` long."""

    audio_url: str


class _ExtendRequest(AudioRequest):
    given_at_end: ClassVar[bool]

    validation: Sequence[ExtendEntry] = Field(
        default_factory=list, max_length=2, description="Up to two previews, each {prompt, audio_url}."
    )
    conditioning_seconds: float = Field(
        1.0, ge=0.1, le=30, description="Seconds that are kept; shorter than the clip by at least a frame of 40 ms."
    )

    def faults(self) -> list[ErrorItem]:
        """A kept part that leaves nothing to generate, in a training clip or in a preview."""
        lengths = [("audio_duration_seconds", self.audio_duration_seconds)]
        if self.validation:
            name = f"the preview, at most {MAX_PREVIEW_FRAMES} frames at {self.validation_frame_rate} a second"
            lengths.append((name, self.preview_seconds))
        return _nothing_new(lengths, self.conditioning_seconds)


class ExtendSuffixRequest(_ExtendRequest):
    """A request of the endpoint `audio-extend-suffix`."""

    given_at_end = True


class ExtendPrefixRequest(_ExtendRequest):
    """A request of the endpoint `audio-extend-prefix`."""

    given_at_end = False


def regenerated(request: _ExtendRequest) -> tuple[Span, ...]:
    """The same span of every clip."""
    return _new_span(request.clip_seconds, request.conditioning_seconds, at_end=request.given_at_end)


def previews(request: _ExtendRequest) -> list[PreviewSpec]:
    """One per validation entry."""
    return [
        PreviewSpec(
            entry.prompt,
            request.validation_negative_prompt,
            request.preview_seconds,
            source=entry.audio_url,
            regenerate=_new_span(request.preview_seconds, request.conditioning_seconds, at_end=request.given_at_end),
            given_seconds=request.conditioning_seconds,
            source_at_end=request.given_at_end,
            normalize=request.audio_normalize,
            field=f"validation.{index}.audio_url",
        )
        for index, entry in enumerate(request.validation)
    ]


class _ExtendGenerate(GenerateRequest):
    given_at_end: ClassVar[bool]

    seconds: float | None = Field(
        None, ge=MIN_SECONDS, description="Length of the result, the whole given clip included; or see extend_seconds."
    )
    extend_seconds: float | None = Field(
        None,
        ge=FRAME_SECONDS,
        le=MAX_LONG_SECONDS,
        description="Length of the new sound; by default that of the LoRA's training clips without what was given.",
    )
    audio: str = Field(description="The clip to extend, a file or URL; all of it is in the result.")
    conditioning_seconds: float = Field(
        1.0, ge=0.1, le=30, description="How much of the clip, next to the new sound, the model is given."
    )
    audio_normalize: bool = Field(True, description="Bring the clip to the level of the training clips on the way.")

    def faults(self) -> list[ErrorItem]:
        """Two lengths that may contradict each other."""
        if self.seconds is None or self.extend_seconds is None:
            return []
        return [ErrorItem(("body", "extend_seconds"), "set either seconds or extend_seconds, not both")]

    def spec(self) -> GenerationSpec:
        return GenerationSpec(
            self.prompt,
            self.negative_prompt,
            self.seconds,
            source=self.audio,
            extend="before" if self.given_at_end else "after",
            extend_seconds=self.extend_seconds,
            context_seconds=self.conditioning_seconds,
            normalize=self.audio_normalize,
            field="audio",
        )


class ExtendSuffixGenerate(_ExtendGenerate):
    """A lead-in: the result ends with the clip."""

    given_at_end = True


class ExtendPrefixGenerate(_ExtendGenerate):
    """A continuation: the result begins with the clip."""

    given_at_end = False


AUDIO_EXTEND_SUFFIX = Mode(
    name="audio-extend-suffix",
    summary="backward extension: the lead-in to a given closing",
    request=ExtendSuffixRequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair_clips,
    regenerated=regenerated,
    previews=previews,
    generation=ExtendSuffixGenerate,
    kept=True,
    trim_beginning=True,
)
AUDIO_EXTEND_PREFIX = Mode(
    name="audio-extend-prefix",
    summary="forward extension: what follows a given opening",
    request=ExtendPrefixRequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair_clips,
    regenerated=regenerated,
    previews=previews,
    generation=ExtendPrefixGenerate,
    kept=True,
)
