"""What losses say beside the sounds: two yardsticks for the loss of a LoRA on held-out clips.

In: examples. Out: losses, or examples to take the losses of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sonolora.conditioning import Example


def zero_velocity(examples: Sequence[Example]) -> Tensor:
    """The expected loss (clips, 1) of a velocity of 0: 1 for the noise, and the mean square of the latents."""
    rows = []
    for example in examples:
        latents = example.latents_BTC if example.keep_BT is None else example.latents_BTC[~example.keep_BT]
        rows.append(1 + latents.square().mean())
    return torch.stack(rows)[:, None]


def exchanged(examples: Sequence[Example]) -> list[Example]:
    """The same targets, each with what is given beside the next one: its film, reference, kept frames or, if none of
    these, its words. A model that has learnt to use what is given loses more with it."""
    return [_given(one, other) for one, other in zip(examples, [*examples[1:], examples[0]], strict=True)]


def _given(example: Example, other: Example) -> Example:
    if example.video is not None:
        return replace(example, video=other.video)
    if example.reference_BRC is not None:
        return replace(example, reference_BRC=other.reference_BRC)
    if example.keep_BT is not None:
        kept = torch.where(example.keep_BT[..., None], other.latents_BTC, example.latents_BTC)
        return replace(example, latents_BTC=kept)
    return replace(example, context_BSD=other.context_BSD)
