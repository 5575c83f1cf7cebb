"""Maps the layer names in LoRA files to the published names of LTX-2.3.

In: a layer's name as a file has it. Out: its published name, without the transformer's prefix.

    diffusion_model.patchify_proj          the publisher, ComfyUI, Sonolora
    transformer.proj_in                    diffusers, which renames layers outside the blocks
    base_model.model.patchify_proj         PEFT
    lora_unet_patchify_proj                kohya's scripts and their descendants (musubi-tuner): dots are underscores
    lycoris_patchify_proj                  LyCORIS

The longest suffix that is a published name is the layer, and what precedes it is the prefix. Within the blocks any
prefix is accepted; one that no trainer is known to write gets a warning.
Sources: the publisher's trainer, diffusers' conversion of LTX-2 (which the tests compare with), keys of other trainers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.tensor_table import published_tensors

FILE_PREFIX = "diffusion_model."
KNOWN_PREFIXES = FILE_PREFIX, "transformer.", "base_model.model.", "lora_unet_", "lycoris_"  # such as; see `_WRAPPERS`
TEXT_PROJECTION = "text_embedding_projection."
_BLOCK_INDEX = re.compile(r"(?<=blocks[._])\d+(?=[._])")
# Names such as `proj_in` occur in other networks too: a layer outside the blocks needs a prefix of these words.
_WRAPPERS = re.compile(
    r"((base_model|model|diffusion_model|transformer|unet|lora|lora_unet|lora_transformer|lycoris|module)[._])*"
)
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


def diffusers_name(layer: str) -> str:
    """The name that diffusers gives a layer of the transformer."""
    first, dot, rest = layer.partition(".")
    return {published: name for name, published in _FROM_DIFFUSERS.items()}.get(first, first) + dot + rest


def published_name(layer: str) -> tuple[str, str] | None:
    """The published name of a layer, and the prefix that precedes it in the file; None for no layer of LTX-2.3."""
    for prefix, suffix in _splits(layer):
        index = _BLOCK_INDEX.search(suffix)
        if (name := _names().get(_BLOCK_INDEX.sub("0", suffix, count=1))) is None:
            continue
        if index is not None:
            return _BLOCK_INDEX.sub(index[0], name, count=1), prefix
        if name.startswith(TEXT_PROJECTION) or is_known_prefix(prefix):
            return name, prefix
    return None


def is_known_prefix(prefix: str) -> bool:
    """Whether a trainer or a program is known to write this before the names of layers."""
    return _WRAPPERS.fullmatch(prefix) is not None


def weight_name(layer: str) -> str:
    """The name of a layer's weight in a checkpoint."""
    return f"{'' if layer.startswith(TEXT_PROJECTION) else PREFIX}{layer}.weight"


def _splits(layer: str) -> Iterator[tuple[str, str]]:
    """Every split of a name into prefix and suffix, at its dots and, in the last part, at its underscores."""
    yield "", layer
    for match in re.finditer(r"\.|_(?=[^.]+$)", layer):
        yield layer[: match.end()], layer[match.end() :]


@cache
def _names() -> dict[str, str]:
    """Published names of the linear layers, with block index 0, by their names in files: dotted and flattened."""
    names: dict[str, str] = {}
    for tensor, info in published_tensors().items():
        name = tensor.removesuffix(".weight").removeprefix(PREFIX)
        is_linear = tensor.endswith(".weight") and len(info.shape) == 2
        if is_linear and tensor.startswith((PREFIX, TEXT_PROJECTION)) and _BLOCK_INDEX.sub("0", name) == name:
            first, dot, rest = name.partition(".")
            aliases = [alias + dot + rest for alias, published in _FROM_DIFFUSERS.items() if published == first]
            names |= {key: name for alias in (name, *aliases) for key in (alias, alias.replace(".", "_"))}
    return names
