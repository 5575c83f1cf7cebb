"""Guidance: how several predictions of the clean latents become one.

p = c + (cfg - 1)(c - u) + stg (c - s) + (modality - 1)(c - m), then p is pulled towards the spread of c by
`rescale`. c conditional, u with the negative prompt, s with the self-attention of one block perturbed
(spatio-temporal guidance), m without the other modality. Source: published guider, in float32, sample by sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sonolora.core.errors import CheckpointError

PUBLISHED_STG_BLOCK, PUBLISHED_LAYERS = 28, 48


@dataclass(frozen=True)
class Guidance:
    """Strengths of guidance; the published values."""

    cfg: float = 7.0
    stg: float = 1.0
    modality: float = 3.0  # counts only where there is a video
    rescale: float = 0.7

    @classmethod
    def of_base(cls, metadata: Mapping[str, Any], **changed: float | None) -> Guidance:
        """The published values, but for those that the checkpoint's metadata names under `guidance`, and those given.

        Raises `CheckpointError` when what is under `guidance` is not a JSON object of strengths.
        """
        said = metadata.get("guidance", {})
        try:
            wanted = cls(**{name: float(value) for name, value in said.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's metadata has guidance {said!r}: {error}") from error
        return replace(wanted, **{name: value for name, value in changed.items() if value is not None})


def stg_blocks(layers: int) -> frozenset[int]:
    """The block that is perturbed: the published one, at the same relative depth of a model of `layers` blocks."""
    return frozenset({PUBLISHED_STG_BLOCK * layers // PUBLISHED_LAYERS})


def guide(
    conditional: Tensor,
    guidance: Guidance,
    *,
    unconditional: Tensor | None = None,
    perturbed: Tensor | None = None,
    isolated: Tensor | None = None,
) -> Tensor:
    """The guided clean latents (B, T, C); a prediction that is not given has no influence."""
    guided = conditional
    if unconditional is not None:
        guided = guided + (guidance.cfg - 1) * (conditional - unconditional)
    if perturbed is not None:
        guided = guided + guidance.stg * (conditional - perturbed)
    if isolated is not None:
        guided = guided + (guidance.modality - 1) * (conditional - isolated)
    spread = conditional.std(dim=(1, 2), keepdim=True) / guided.std(dim=(1, 2), keepdim=True)
    return guided * torch.lerp(torch.ones_like(spread), spread, guidance.rescale)
