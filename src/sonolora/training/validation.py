"""The loss with fixed noise: the same clips, noise levels and noise at every evaluation.

The loss of a single training step depends mostly on its noise level. This one falls when the model learns, and can be
compared clip by clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.core.randomness import normal
from sonolora.ltx.model.transformer import Transformer
from sonolora.training.loss import flow_losses

SIGMAS = (0.125, 0.375, 0.625, 0.875)
MAX_CLIPS = 8
_SEED = 0


@torch.inference_mode()
def eval_losses(
    model: Transformer, examples: Sequence[Example], device: torch.device, max_clips: int = MAX_CLIPS
) -> Tensor:
    """Losses (clips, sigmas) of at most `max_clips` clips, evenly spread over `examples`, at each of `SIGMAS`."""
    stride = -(-len(examples) // max_clips)
    rows = []
    for index, example in enumerate(examples[::stride]):
        example = example.to(device)
        noise = normal(tuple(example.latents_BTC.shape), _SEED, "grid", index).to(device)
        losses = [flow_losses(model, example, noise, torch.tensor([sigma], device=device)) for sigma in SIGMAS]
        rows.append(torch.cat(losses))
    return torch.stack(rows).cpu()
