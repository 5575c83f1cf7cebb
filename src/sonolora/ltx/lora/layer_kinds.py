"""The part of the network that a layer belongs to, by its published name."""

from __future__ import annotations

import re

TEXT = "text conditioning"
VIDEO_TO_AUDIO = "video-to-audio attention"
VIDEO = "video self-attention"
_KINDS = (  # the first match counts
    (r"embeddings_connector\.|^text_embedding_projection\.", TEXT),
    (r"\.audio_attn1\.", "audio self-attention"),
    (r"\.audio_attn2\.", "audio attention to text"),
    (r"\.audio_ff\.", "audio feed-forward"),
    (r"^audio_", "audio input, output, modulation"),
    (r"\.video_to_audio_attn\.", VIDEO_TO_AUDIO),
    (r"\.audio_to_video_attn\.", "audio-to-video attention"),
    (r"^av_ca_", "modulation between audio and video"),
    (r"\.attn1\.", VIDEO),
    (r"\.attn2\.", "video attention to text"),
    (r"\.ff\.", "video feed-forward"),
    (r"^(patchify_proj|proj_out|(prompt_)?adaln_single)", "video input, output, modulation"),
)
KINDS = (*(kind for _, kind in _KINDS), "other")
AUDIO_KINDS = KINDS[1:5]  # the layers of the audio stream
VIDEO_KINDS = KINDS[5:-1]  # layers that are used with a video only


def layer_kind(layer: str) -> str:
    """One of `KINDS`."""
    return next((kind for pattern, kind in _KINDS if re.search(pattern, layer)), KINDS[-1])
