"""Steps that keep the base as it is where nothing is to be learnt.

In: an example with a caption that is foreign to the data, noise, sigma. Out: the squared difference between the
velocity with adapters and that of the frozen base, at the same point. A LoRA sees the captions of its data alone, and
nothing else stops it from changing what other prompts give. The point is where the base itself goes from the noise with
that caption, in one step: at a noisy clip of the data the caption says little, and what is learnt would be unlearnt.
The steps are spread evenly over a run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sonolora.conditioning import Example, velocity
from sonolora.core.randomness import generator
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.training.loss import regenerated_means
from sonolora.training.validation import only_adapters, without_adapters

# Differences are small beside flow losses, whose gradients are mostly noise. Measured in bench/results/preserve.md.
WEIGHT = 10.0


def is_preserving(share: float, seed: int, step: int) -> bool:
    """Whether a step is one of the share of steps that keep the base."""
    offset = torch.rand((), generator=generator(seed, "preserve"), dtype=torch.float64).item() if share else 0.0
    return int(share * (step + 1) + offset) > int(share * step + offset)


def foreign_index(count: int, seed: int, step: int, slot: int) -> int:
    """Which of `count` foreign captions a sample gets."""
    return int(torch.randint(count, (), generator=generator(seed, "foreign caption", step, slot)))


def preservation_losses(
    model: Transformer, adapters: Adapters, example: Example, noise_BTC: Tensor, sigma_B: Tensor
) -> Tensor:
    """Mean squared change of the velocity of each sample, (B,), over the frames that are not kept; not weighted."""
    with torch.no_grad(), only_adapters(adapters, without_adapters):
        # One for all members of a sweep, whose base is the same.
        first = velocity(model, example, noise_BTC, torch.ones_like(sigma_B))[: len(sigma_B)]
        noisy = noise_BTC - (1 - sigma_B[:, None, None]) * first
        base = velocity(model, example, noisy, sigma_B)
    return regenerated_means((velocity(model, example, noisy, sigma_B) - base).square().mean(dim=-1), example)
