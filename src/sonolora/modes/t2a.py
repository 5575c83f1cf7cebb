"""Text to audio: plain clips with captions; at inference only a prompt."""

from __future__ import annotations

from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.modes.generate_request import GenerateRequest
from sonolora.modes.mode import Mode, regenerates_all
from sonolora.modes.pairing import pair_clips
from sonolora.modes.preview_spec import PreviewSpec
from sonolora.modes.request import AudioRequest


class T2ARequest(AudioRequest):
    """A request of the endpoint `t2a`."""


def previews(request: T2ARequest) -> list[PreviewSpec]:
    """One per validation entry."""
    return [
        PreviewSpec(entry.prompt, request.validation_negative_prompt, request.preview_seconds)
        for entry in request.validation
    ]


T2A = Mode(
    name="t2a",
    summary="text to audio: a sound, an instrument or a style from a prompt",
    request=T2ARequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair_clips,
    regenerated=regenerates_all,
    previews=previews,
    generation=GenerateRequest,
)
