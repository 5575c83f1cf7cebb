"""The published sets of target layers of a LoRA, as suffixes of module names in each block."""

from __future__ import annotations

_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
AUDIO_TARGETS = (
    *(f"audio_attn{n}.{layer}" for n in (1, 2) for layer in _ATTENTION),
    "audio_ff.net.0.proj",
    "audio_ff.net.2",
)
VIDEO_TO_AUDIO_TARGETS = tuple(f"video_to_audio_attn.{layer}" for layer in _ATTENTION)
