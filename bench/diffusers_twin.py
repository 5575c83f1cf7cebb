"""The same transformer as diffusers has it: an oracle in tests, and what speed is compared with.

In: our transformer with both streams. Out: diffusers' model of the same sizes, on the very same tensors.
"""

from __future__ import annotations

import re

import torch
from diffusers import LTX2VideoTransformer3DModel

from sonolora.ltx.model.transformer import Transformer

DIFFUSERS_NAMES = (  # published -> diffusers, the first that matches
    (r"^(audio_)?patchify_proj\.", r"\1proj_in."),
    (r"^adaln_single\.", "time_embed."),
    (r"^audio_adaln_single\.", "audio_time_embed."),
    (r"^(audio_)?prompt_adaln_single\.", r"\1prompt_adaln."),
    (r"^av_ca_(audio|video)_scale_shift_adaln_single\.", r"av_cross_attn_\1_scale_shift."),
    (r"^av_ca_a2v_gate_adaln_single\.", "av_cross_attn_video_a2v_gate."),
    (r"^av_ca_v2a_gate_adaln_single\.", "av_cross_attn_audio_v2a_gate."),
    (r"\.([qk])_norm\.", r".norm_\1."),
    (r"\.scale_shift_table_a2v_ca_(audio|video)$", r".\1_a2v_cross_attn_scale_shift_table"),
)


def diffusers_name(name: str) -> str:
    """Of a parameter, from the published one."""
    for pattern, replacement in DIFFUSERS_NAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def diffusers_transformer(ours: Transformer) -> LTX2VideoTransformer3DModel:
    """Frozen, and without a copy of the weights."""
    audio, video = ours.config.audio, ours.config.video
    with torch.device("meta"):
        model = LTX2VideoTransformer3DModel(
            in_channels=video.channels,
            out_channels=video.channels,
            num_attention_heads=video.heads,
            attention_head_dim=video.head_dim,
            cross_attention_dim=video.context_dim,
            gated_attn=True,
            cross_attn_mod=True,
            audio_in_channels=audio.channels,
            audio_out_channels=audio.channels,
            audio_num_attention_heads=audio.heads,
            audio_attention_head_dim=audio.head_dim,
            audio_cross_attention_dim=audio.context_dim,
            audio_gated_attn=True,
            audio_cross_attn_mod=True,
            num_layers=ours.config.layers,
            rope_type="split",
            cross_attn_timestep_scale_multiplier=1000,
            use_prompt_embeddings=False,
        )
    state = {diffusers_name(name): tensor for name, tensor in ours.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False)
