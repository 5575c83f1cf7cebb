"""Audio to audio: pairs of a reference and its transformed version; at inference a reference."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.modes.generate_request import MAX_LONG_SECONDS, GenerateRequest, GenerationSpec
from sonolora.modes.mode import Mode, regenerates_all
from sonolora.modes.pairing import pair_references
from sonolora.modes.preview_spec import MIN_SECONDS, PreviewSpec
from sonolora.modes.request import AudioRequest, ValidationEntry


class A2AEntry(ValidationEntry):
    """A validation entry with the sound to transform."""

    reference_audio_url: str


class A2ARequest(AudioRequest):
    """A request of the endpoint `a2a`."""

    split_input_into_scenes: bool = Field(False, description="Cut long videos at scene changes.")
    validation: Sequence[A2AEntry] = Field(
        default_factory=list, max_length=2, description="Up to two previews, each {prompt, reference_audio_url}."
    )


def previews(request: A2ARequest) -> list[PreviewSpec]:
    """One per validation entry."""
    return [
        PreviewSpec(
            entry.prompt,
            request.validation_negative_prompt,
            request.preview_seconds,
            reference=entry.reference_audio_url,
            normalize=request.audio_normalize,
            field=f"validation.{index}.reference_audio_url",
        )
        for index, entry in enumerate(request.validation)
    ]


class A2AGenerate(GenerateRequest):
    """A transformed sound, as long as its reference."""

    seconds: float | None = Field(
        None,
        ge=MIN_SECONDS,
        le=MAX_LONG_SECONDS,
        description="Use only this much of the reference, from its beginning; by default all of it.",
    )
    reference: str = Field(description="The sound to transform, a file or URL.")
    audio_normalize: bool = Field(True, description="Bring it to the level of the training clips.")

    def spec(self) -> GenerationSpec:
        return GenerationSpec(
            self.prompt,
            self.negative_prompt,
            self.seconds,
            reference=self.reference,
            normalize=self.audio_normalize,
            field="reference",
        )


A2A = Mode(
    name="a2a",
    summary="audio to audio: a transformation, learned from pairs of reference and target",
    request=A2ARequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair_references,
    regenerated=regenerates_all,
    previews=previews,
    generation=A2AGenerate,
    sigma_density="matched",
    reference=True,
)
