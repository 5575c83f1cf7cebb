"""The loss on a fixed grid: the same clips, noise levels and noise every time.

The loss of single steps jumps with the drawn noise level and says little. This one falls when the model learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sonolora.conditioning import Example
from sonolora.ltx.transformer import Transformer
from sonolora.randomness import normal
from sonolora.training.step import flow_losses

SIGMAS = (0.125, 0.375, 0.625, 0.875)
MAX_CLIPS = 8
_SEED = 0


@torch.inference_mode()
def grid_losses(model: Transformer, examples: Sequence[Example], device: torch.device) -> torch.Tensor:
    """Losses (clips, sigmas) of up to 8 clips, evenly spread over `examples`, at four noise levels."""
    stride = -(-len(examples) // MAX_CLIPS)
    rows = []
    for index, example in enumerate(examples[::stride]):
        example = example.to(device)
        noise = normal(tuple(example.latents_BTC.shape), _SEED, "grid", index).to(device)
        losses = [flow_losses(model, example, noise, torch.tensor([sigma], device=device)) for sigma in SIGMAS]
        rows.append(torch.cat(losses))
    return torch.stack(rows).cpu()
