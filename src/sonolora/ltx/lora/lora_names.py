"""What the makers of LoRA files call the layers of LTX-2.3.

In: a layer's name as a file has it. Out: its published name, without the transformer's prefix.

    diffusion_model.patchify_proj          the publisher, ComfyUI, Sonolora
    transformer.proj_in                    diffusers and what builds on it: own names at the top level, not in blocks
    patchify_proj                          no prefix
    lora_unet_[model_]patchify_proj        musubi-tuner and other descendants of kohya's scripts: dots are underscores

Sources: the publisher's trainer, diffusers' conversion of LTX-2 (the oracle of the tests), musubi-tuner's keys.
"""

from __future__ import annotations

import re
from functools import cache

from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.tensor_table import published_tensors

FILE_PREFIX = "diffusion_model."
_PREFIXES = (FILE_PREFIX, "transformer.")
_FLAT = re.compile(r"(lora_unet_(?:model_)?)(.+)")
_FROM_DIFFUSERS = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}


def published_name(layer: str) -> tuple[str, str]:
    """The published name of a layer, and the prefix under which the file has it ("" for none).

    A name that nobody publishes comes back as it is: whether a base has it, the base will say.
    """
    if (flat := _FLAT.fullmatch(layer)) is not None:
        return _flattened().get(flat[2], flat[2]), flat[1]
    prefix = next((prefix for prefix in _PREFIXES if layer.startswith(prefix)), "")
    first, dot, rest = layer.removeprefix(prefix).partition(".")
    return _FROM_DIFFUSERS.get(first, first) + dot + rest, prefix


@cache
def _flattened() -> dict[str, str]:
    """Published names by what is left of them without dots; no rule tells which underscores were dots."""
    names = (name.removeprefix(PREFIX).removesuffix(".weight") for name in published_tensors() if _is_layer(name))
    return {name.replace(".", "_"): name for name in names}


def _is_layer(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(".weight")
