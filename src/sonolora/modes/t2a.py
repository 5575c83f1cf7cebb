"""Text to audio: plain clips with captions; nothing is given at inference but words."""

from __future__ import annotations

from collections.abc import Sequence

from sonolora.ltx.targets import AUDIO_TARGETS
from sonolora.media.audio import AUDIO_EXTENSIONS
from sonolora.modes.mode import Mode, Pairing, pair_clips
from sonolora.modes.request import AudioRequest


class T2ARequest(AudioRequest):
    """A request of the endpoint `t2a`."""


def pair(names: Sequence[str]) -> Pairing:
    """Every audio file is a sample."""
    return pair_clips(names, AUDIO_EXTENSIONS)


T2A = Mode(
    name="t2a",
    summary="text to audio: teach a sound, an instrument or a style, and call it up by words",
    request=T2ARequest,
    lora_targets=AUDIO_TARGETS,
    pair=pair,
)
