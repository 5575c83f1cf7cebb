"""The loss on a fixed grid: the same clips, noise levels and noise every time.

The loss of single steps jumps with the drawn noise level and says little. This one falls when the model learns, and
two grids of the same clips can be compared clip by clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.core.randomness import generator, normal
from sonolora.ltx.lora.adapters import Adapters, rounded_to_bf16
from sonolora.ltx.model.transformer import Transformer
from sonolora.training.loss import flow_losses

SIGMAS = (0.125, 0.375, 0.625, 0.875)
MAX_CLIPS = 8
RESAMPLES = 10_000
CONFIDENCE = 0.95
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """A mean over clips and its bootstrap interval."""

    mean: float
    low: float
    high: float


@torch.inference_mode()
def eval_losses(
    model: Transformer, examples: Sequence[Example], device: torch.device, max_clips: int = MAX_CLIPS
) -> Tensor:
    """Losses (clips, sigmas) of at most so many clips, evenly spread over `examples`, at four noise levels."""
    stride = -(-len(examples) // max_clips)
    rows = []
    for index, example in enumerate(examples[::stride]):
        example = example.to(device)
        noise = normal(tuple(example.latents_BTC.shape), _SEED, "grid", index).to(device)
        losses = [flow_losses(model, example, noise, torch.tensor([sigma], device=device)) for sigma in SIGMAS]
        rows.append(torch.cat(losses))
    return torch.stack(rows).cpu()


def paired_grids(
    model: Transformer,
    adapters: Adapters,
    examples: Sequence[Example],
    device: torch.device,
    max_clips: int = MAX_CLIPS,
) -> tuple[Tensor, Tensor]:
    """`eval_losses` of the base alone, and with the adapters as the LoRA file will hold them."""
    scales = {name: adapter.scale for name, adapter in adapters.items()}
    try:
        for adapter in adapters.values():
            adapter.scale = 0.0
        base = eval_losses(model, examples, device, max_clips)
    finally:
        for name, adapter in adapters.items():
            adapter.scale = scales[name]
    with rounded_to_bf16(adapters):
        return base, eval_losses(model, examples, device, max_clips)


def paired_difference(before: Tensor, after: Tensor) -> Difference:
    """How much more the clips lose after than before, of two grids (clips, sigmas) of the same clips.

    The interval is the percentile bootstrap's over clips: noise levels of one clip are not independent. It depends
    on the two grids alone. Raises `ValueError` for grids of different shapes or of fewer than two clips.
    """
    if before.shape != after.shape or len(before) < 2:
        raise ValueError(f"two grids of the same two or more clips, not {(*before.shape,)} and {(*after.shape,)}")
    clips = (after - before).double().flatten(1).mean(dim=1)
    draws = torch.randint(len(clips), (RESAMPLES, len(clips)), generator=generator(_SEED, "bootstrap"))
    tails = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=clips.dtype)
    low, high = clips[draws].mean(dim=1).quantile(tails).tolist()
    return Difference(clips.mean().item(), low, high)
