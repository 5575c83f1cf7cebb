"""How much a LoRA changes the loss of each clip, with an interval.

In: losses of the same clips before and after. Out: the mean difference and its bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.core.randomness import generator
from sonolora.ltx.lora.adapters import rounded_to_bf16, with_values
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.training.validation import MAX_CLIPS, eval_losses

RESAMPLES = 10_000
CONFIDENCE = 0.95
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """A mean over clips and its bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_eval_losses(
    model: Transformer,
    adapters: Adapters,
    examples: Sequence[Example],
    device: torch.device,
    max_clips: int = MAX_CLIPS,
) -> tuple[Tensor, Tensor]:
    """`eval_losses` of the base alone, and with the adapters as the LoRA file holds them."""
    with with_values(adapters, torch.zeros_like(adapters.flat)):
        base = eval_losses(model, examples, device, max_clips)
    with rounded_to_bf16(adapters):
        return base, eval_losses(model, examples, device, max_clips)


def paired_difference(before: Tensor, after: Tensor) -> Difference:
    """How much higher the losses are after than before, (clips, sigmas) of the same clips.

    The interval is the percentile bootstrap over clips: noise levels of one clip are not independent. It depends on the
    losses alone. Raises `ValueError` for different shapes and for fewer than two clips.
    """
    if before.shape != after.shape or len(before) < 2:
        raise ValueError(f"losses of the same two or more clips, not {(*before.shape,)} and {(*after.shape,)}")
    clips = (after - before).double().flatten(1).mean(dim=1)
    draws = torch.randint(len(clips), (RESAMPLES, len(clips)), generator=generator(_SEED, "bootstrap"))
    tails = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=clips.dtype)
    low, high = clips[draws].mean(dim=1).quantile(tails).tolist()
    return Difference(clips.mean().item(), low, high)
