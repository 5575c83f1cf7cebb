"""How much a LoRA changes each layer of a base: the size of scale * B A beside the size of W.

In: an opened LoRA and a checkpoint. Out: one line a layer. Sizes are Frobenius norms. Of the base only the layers
that the LoRA changes are read, one at a time, and B A is not formed: its norm follows from two matrices of the rank's
size, ||B A||^2 = trace((B^T B) (A A^T)).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from sonolora.ltx.lora.lora_file import LoRAFile, linear_layers, misfits
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.checkpoint import Checkpoint, read_tensors

_CPU = torch.device("cpu")
TEXT_CONNECTOR = "text connector"
PICTURE_INTO_SOUND = "picture into sound"
_KINDS = (  # the first that a layer's name matches
    (r"embeddings_connector\.", TEXT_CONNECTOR),
    (r"\.audio_attn1\.", "audio self-attention"),
    (r"\.audio_attn2\.", "audio attention to text"),
    (r"\.audio_ff\.", "audio feed-forward"),
    (r"^audio_", "audio input, output, modulation"),
    (r"\.video_to_audio_attn\.", PICTURE_INTO_SOUND),
    (r"\.audio_to_video_attn\.", "sound into picture"),
    (r"^av_ca_", "modulation between sound and picture"),
    (r"\.attn1\.", "video self-attention"),
    (r"\.attn2\.", "video attention to text"),
    (r"\.ff\.", "video feed-forward"),
    (r"^(patchify_proj|proj_out|(prompt_)?adaln_single)", "video input, output, modulation"),
)
KINDS = (*(words for _, words in _KINDS), "other")
AUDIO_KINDS = tuple(words for words in KINDS if words.startswith("audio"))  # all that sound alone passes through
VIDEO_KINDS = tuple(words for words in KINDS if words not in (TEXT_CONNECTOR, "other", *AUDIO_KINDS))


@dataclass(frozen=True)
class Strength:
    """What a LoRA does to one layer, or to several together."""

    change: float  # ||scale * B A||; NaN where A or B hold NaN or infinity
    weight: float | None  # ||W|| of the base; None where the base has no such layer

    @property
    def relative(self) -> float | None:
        """The change in parts of the base's weights."""
        return None if not self.weight else self.change / self.weight


def kind(layer: str) -> str:
    """What part of the network a layer belongs to, one of `KINDS`."""
    return next((words for pattern, words in _KINDS if re.search(pattern, layer)), KINDS[-1])


def strengths(lora: LoRAFile, checkpoint: Checkpoint) -> dict[str, Strength]:
    """By layer, in the order of the LoRA. What does not fit the base has no `weight`."""
    foreign = misfits(lora, linear_layers(checkpoint))
    weights = dict(_weights(checkpoint, (layer for layer in lora.pairs if layer not in foreign)))
    return {layer: Strength(_change(lora, layer), weights.get(layer)) for layer in lora.pairs}


def together(parts: Iterable[Strength]) -> Strength:
    """Of several layers as of one: norms add as squares. Layers that the base lacks are left out."""
    both = [(part.change, part.weight) for part in parts if part.weight is not None]
    return Strength(math.hypot(*(change for change, _ in both)), math.hypot(*(weight for _, weight in both)))


def _weights(checkpoint: Checkpoint, layers: Iterable[str]) -> Iterator[tuple[str, float]]:
    names = {f"{PREFIX}{layer}.weight": layer for layer in layers}
    # As published; what other dtypes lose is nothing to a norm.
    for name, weight in read_tensors(checkpoint, names, device=_CPU, dtype=torch.bfloat16):
        # By rows, since all of it in float64 would be four times its size.
        rows = torch.split(weight, 512)
        yield names[name], math.hypot(*(torch.linalg.vector_norm(part, dtype=torch.float64) for part in rows))


def _change(lora: LoRAFile, layer: str) -> float:
    down, up = (half.double() for half in lora.read(layer, finite=False))
    if not (down.isfinite().all() and up.isfinite().all()):
        return math.nan
    squared = ((up.T @ up) * (down @ down.T)).sum()
    return abs(lora.pairs[layer].scale) * math.sqrt(max(float(squared), 0.0))
