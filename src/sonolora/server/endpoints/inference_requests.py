"""The requests of the endpoints that generate sounds: fields, ranges, defaults.

Those of text to audio are the published ones of `fal-ai/ltx-2.3-quality/text-to-audio[/lora]`; ours beside them are
spelt like their siblings. A default here describes the published endpoint; what a field that was not sent means here,
its description says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sonolora.core.errors import ErrorItem
from sonolora.core.frames import FRAME_SECONDS
from sonolora.data.fetch_lora import is_hub_id, weight_name_fault
from sonolora.modes.audio_inpaint import spans_within
from sonolora.modes.generate_request import MAX_LONG_SECONDS, MAX_SECONDS
from sonolora.modes.preview_spec import MIN_SECONDS
from sonolora.modes.request import Body
from sonolora.server.net.urls import URL_PATTERN, data_url_fault

MAX_LORAS = 3
MAX_SCALE = 4.0  # what a LoRA does grows with it; published without bounds, the siblings have these
_LONGEST = float(1 << 31)  # seconds: how long a sound is, only the worker knows
_NAME = r"[0-9A-Za-z]+([._-][0-9A-Za-z]+)*"
HUB_ID_PATTERN = f"^{_NAME}/{_NAME}$"  # as OpenAPI describes it; revisions and files are accepted, too
_PROMPT = "What to generate, trigger phrase included."
_STEPS = "Sampling steps. Not sent: 30, as previews have, or 8 for a distilled base."
_GUIDANCE = "Classifier-free guidance. Not sent: as the base recommends."
_NEGATIVE = "What to steer away from. Not sent: faults of sound, as in previews."
_SEED = "Not sent or null: a random one. The result has the seed that was used."
_SYNC = "The result holds the sound itself, as a data: URI."


class LoraWeights(BaseModel):
    """A LoRA and its strength."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    path: str = Field(
        description="The file: as a training here returned it, any URL, or a Hugging Face id. At most 3 GB.",
        json_schema_extra={"pattern": f"{URL_PATTERN}|{HUB_ID_PATTERN}"},
    )
    scale: float = Field(1.0, ge=0, le=MAX_SCALE, description="Strength.")
    transformer: Literal["both", "high", "low"] = Field("both", description="LTX-2.3 has one: all mean the same.")
    weight_name: str | None = Field(None, description="The file in a Hugging Face repository with several.")


def _path_faults(loras: Sequence[LoraWeights]) -> list[ErrorItem]:
    """Paths that lead nowhere, whatever is there, and files chosen from what is a file."""
    return [
        ErrorItem(("body", "loras", index, "weight_name"), fault, input=lora.weight_name)
        for index, lora in enumerate(loras)
        if (fault := weight_name_fault(lora.path, lora.weight_name))
    ] + [
        ErrorItem(("body", "loras", index, "path"), f"{fault}, or be a Hugging Face id such as owner/name", input=path)
        for index, path in enumerate(lora.path for lora in loras)
        if not is_hub_id(path) and (fault := data_url_fault(path))
    ]


class TextToAudioRequest(Body):
    """As published."""

    prompt: str = Field(description=_PROMPT)
    num_frames: int = Field(
        121,
        ge=9,
        le=481,
        description="Length, in frames of frames_per_second. If neither is sent: that of the LoRA's training clips, or "
        f"5 seconds. At most {MAX_SECONDS:g} seconds.",
    )
    frames_per_second: float = Field(24, ge=1, le=60, description="Of num_frames; there is no video.")
    num_inference_steps: int = Field(15, ge=8, le=30, description=_STEPS)
    guidance_scale: float = Field(1, ge=1, le=20, description=_GUIDANCE)
    negative_prompt: str = Field("pc game, console game, video game, cartoon, childish, ugly", description=_NEGATIVE)
    seed: int | None = Field(None, description=_SEED)
    enable_prompt_expansion: bool = Field(False, description="No effect: prompts are used as they are.")
    enable_safety_checker: bool = Field(True, description="No effect: there is no safety checker.")
    sync_mode: bool = Field(False, description=_SYNC)

    @property
    def seconds(self) -> float | None:
        """None if the request does not say."""
        if self.model_fields_set & {"num_frames", "frames_per_second"}:
            return self.num_frames / self.frames_per_second
        return None

    def faults(self) -> list[ErrorItem]:
        seconds = self.seconds
        if seconds is None or seconds <= MAX_SECONDS:
            return []
        msg = (
            f"{self.num_frames} frames at {self.frames_per_second:g} a second are {seconds:.4g} s; at most "
            f"{MAX_SECONDS:g} s can be generated"
        )
        return [ErrorItem(("body", "num_frames"), msg, input=self.num_frames)]


class TextToAudioLoraRequest(TextToAudioRequest):
    """As published, with LoRAs."""

    loras: Sequence[LoraWeights] = Field(max_length=MAX_LORAS, description="Up to three LoRAs, used together.")

    def faults(self) -> list[ErrorItem]:
        return [*super().faults(), *_path_faults(self.loras)]


class OwnRequest(Body):
    """What our own endpoints have in common."""

    prompt: str = Field(description=_PROMPT)
    loras: Sequence[LoraWeights] = Field(
        default_factory=list, max_length=MAX_LORAS, description="Up to three LoRAs, used together."
    )
    negative_prompt: str | None = Field(None, description=_NEGATIVE)
    num_inference_steps: int | None = Field(None, ge=1, le=100, description=_STEPS)
    guidance_scale: float | None = Field(None, ge=1, le=20, description=_GUIDANCE)
    stg_scale: float | None = Field(
        None, ge=0, le=3, description="Spatio-temporal guidance; 0 is off. Not sent: as the base recommends."
    )
    seed: int | None = Field(None, description=_SEED)
    num_samples: int = Field(1, ge=1, le=4, description="How many, each with the next seed.")
    output_format: Literal["wav", "flac", "mp3"] = Field("wav", description="Format of the sound.")
    sync_mode: bool = Field(False, description=_SYNC)

    def faults(self) -> list[ErrorItem]:
        return _path_faults(self.loras)


class AudioToAudioRequest(OwnRequest):
    """A sound transformed."""

    audio_url: str = Field(description="The sound to transform; the result is as long.")


class InpaintingRequest(OwnRequest):
    """Spans of a sound made anew."""

    audio_url: str = Field(description="The sound; what is not marked is kept, sample by sample.")
    mask_start_seconds: float | None = Field(None, ge=0, description="Where the span to regenerate begins.")
    mask_end_seconds: float | None = Field(None, ge=0, description="Where it ends.")
    time_ranges: list[list[float]] | None = Field(
        None, description="In place of them: several spans, each [start, end] in seconds."
    )

    @property
    def ranges(self) -> list[list[float]]:
        """Seconds to regenerate."""
        if self.time_ranges is not None:
            return self.time_ranges
        assert self.mask_start_seconds is not None and self.mask_end_seconds is not None
        return [[self.mask_start_seconds, self.mask_end_seconds]]

    def faults(self) -> list[ErrorItem]:
        return [*super().faults(), *self._mask_faults()]

    def _mask_faults(self) -> list[ErrorItem]:
        mask = {name: getattr(self, name) for name in ("mask_start_seconds", "mask_end_seconds")}
        given = [name for name, value in mask.items() if value is not None]
        if self.time_ranges is not None and given:
            return [_fault("time_ranges", f"send either time_ranges or {' and '.join(given)}, not both")]
        if self.time_ranges is None and len(given) < len(mask):
            missing = next(name for name in mask if name not in given)
            return [_fault(missing, "is missing: send mask_start_seconds and mask_end_seconds, or time_ranges")]
        try:
            spans_within(self.ranges, _LONGEST)
        except ValueError as error:
            return [_fault("time_ranges" if not given else "mask_end_seconds", str(error))]
        return []


class OutpaintingRequest(OwnRequest):
    """A sound extended, at one end or at both."""

    audio_url: str = Field(description="The sound; all of it is in the result.")
    extend_seconds_before: float = Field(
        0, ge=0, le=MAX_LONG_SECONDS, description="New sound that leads up to it, by LoRAs of audio-extend-suffix."
    )
    extend_seconds_after: float = Field(
        0, ge=0, le=MAX_LONG_SECONDS, description="New sound that follows it, by LoRAs of audio-extend-prefix."
    )
    conditioning_seconds: float | None = Field(
        None,
        ge=0.1,
        le=30,
        description="How much of the sound, next to the new one, the model is given. Not sent: as the LoRA was "
        "trained, or 1.",
    )

    def faults(self) -> list[ErrorItem]:
        found = super().faults()
        seconds = {name: getattr(self, name) for name in ("extend_seconds_before", "extend_seconds_after")}
        if not any(seconds.values()):
            found.append(_fault("extend_seconds_after", "send extend_seconds_before or extend_seconds_after, or both"))
        found += [
            _fault(name, f"must be 0 or at least {FRAME_SECONDS:g} s, a frame of the model")
            for name, value in seconds.items()
            if 0 < value < FRAME_SECONDS
        ]
        return found


class VideoToAudioRequest(OwnRequest):
    """The sound for a video."""

    prompt: str = Field("", description=_PROMPT)
    video_url: str = Field(description="The video; its own sound, if any, is not used.")
    duration: float | None = Field(
        None, ge=MIN_SECONDS, le=MAX_LONG_SECONDS, description="Use only this many seconds of the video."
    )
    with_video: bool = Field(False, description="The result also has the video with the new sound.")


def _fault(name: str, msg: str) -> ErrorItem:
    return ErrorItem(("body", name), msg)
