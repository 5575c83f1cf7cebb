"""Two reference values for the held-out loss of a LoRA.

In: examples. Out: losses, or examples to evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sonolora.conditioning import Example


def zero_velocity(examples: Sequence[Example]) -> Tensor:
    """The expected loss (clips, 1) of a zero velocity: 1 for the noise plus the mean square of the latents."""
    rows = []
    for example in examples:
        latents = example.latents_BTC if example.keep_BT is None else example.latents_BTC[~example.keep_BT]
        rows.append(1 + latents.square().mean())
    return torch.stack(rows)[:, None]


def exchanged(examples: Sequence[Example]) -> list[Example]:
    """The same targets, each with the conditioning of the next one: its video, reference, kept frames or else caption.

    A model that uses its conditioning has a higher loss on these.
    """
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
