"""Video to audio (foley): videos with their sound; at inference a silent video."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from sonolora.core.errors import InputError, first_few
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.media.video import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, frame_size
from sonolora.modes.generate_request import MAX_LONG_SECONDS, GenerateRequest, GenerationSpec
from sonolora.modes.mode import Mode, Pairing, regenerates_all
from sonolora.modes.pairing import extension, pair_clips
from sonolora.modes.preview_spec import MIN_SECONDS, PreviewSpec, VideoFormat
from sonolora.modes.request import Aspect, Size, TrainRequest, ValidationEntry

_SHOWN = 5


class V2AEntry(ValidationEntry):
    """A validation entry with the video to make a sound for."""

    video_url: str


class V2ARequest(TrainRequest):
    """A request of the endpoint `v2a`."""

    split_input_into_scenes: bool = Field(False, description="Cut long videos at scene changes.")
    validation: Sequence[V2AEntry] = Field(
        default_factory=list, max_length=2, description="Up to two previews, each {prompt, video_url}."
    )


def pair(names: Sequence[str]) -> Pairing:
    """Every video is a sample. Raises `InputError` for an archive of images: foley needs motion."""
    pairing = pair_clips(names, VIDEO_EXTENSIONS)
    images = [name for name in names if extension(name) in IMAGE_EXTENSIONS]
    if images and not pairing.samples:
        raise InputError.in_dataset(
            f"these are images, and v2a needs videos with sound ({', '.join(VIDEO_EXTENSIONS)}): "
            f"{first_few(images, _SHOWN)}"
        )
    return pairing


def previews(request: V2ARequest) -> list[PreviewSpec]:
    """One per validation entry."""
    width, height = frame_size(request.validation_resolution, request.validation_aspect_ratio)
    video_format = VideoFormat(request.validation_number_of_frames, request.validation_frame_rate, width, height)
    return [
        PreviewSpec(
            entry.prompt,
            request.validation_negative_prompt,
            request.preview_seconds,
            video=entry.video_url,
            video_format=video_format,
            field=f"validation.{index}.video_url",
        )
        for index, entry in enumerate(request.validation)
    ]


class V2AGenerate(GenerateRequest):
    """A sound for a video, as long as the video."""

    seconds: float | None = Field(
        None,
        ge=MIN_SECONDS,
        le=MAX_LONG_SECONDS,
        description="Use only this much of the video, from its beginning; by default all of it.",
    )
    video: str = Field(description="The video, a file or URL; its own sound, if any, is not used.")
    frame_rate: int = Field(24, ge=8, le=60, description="Frames a second that the model is given.")
    resolution: Size = Field("medium", description="Size that the model is given: low, medium or high.")
    aspect_ratio: Aspect = Field("1:1", description="Shape to which the video is cropped: 16:9, 1:1 or 9:16.")

    def spec(self) -> GenerationSpec:
        return GenerationSpec(
            self.prompt,
            self.negative_prompt,
            self.seconds,
            video=self.video,
            frame_rate=self.frame_rate,
            frame_size=frame_size(self.resolution, self.aspect_ratio),
            field="video",
        )


V2A = Mode(
    name="v2a",
    summary="video to audio: sound for a silent video",
    request=V2ARequest,
    lora_targets=(*AUDIO_TARGETS, *VIDEO_TO_AUDIO_TARGETS),
    pair=pair,
    regenerated=regenerates_all,
    previews=previews,
    generation=V2AGenerate,
    video=True,
)
