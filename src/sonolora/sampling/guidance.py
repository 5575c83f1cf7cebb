"""Guidance: combines several predictions of the clean latents into one.

p = c + (cfg - 1)(c - u) + stg (c - s) + (modality - 1)(c - m), then p is scaled towards the standard deviation of c:
p * (rescale std(c) / std(p) + 1 - rescale). c is the conditional prediction, u the one with the negative prompt, s the
one with the self-attention of one block perturbed (spatio-temporal guidance, STG), m the one without the video.
The standard deviations run over all tokens of the audio stream, those of a reference included.
Source: the published guider, in float32, one sample at a time.

B batch, T target frames, R reference frames, C latent channels.
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
    """Guidance scales; the defaults are the published values. `cfg` and `modality` are off at 1, `stg` at 0."""

    cfg: float = 7.0
    stg: float = 1.0
    modality: float = 3.0  # used only with a video
    rescale: float = 0.7

    @classmethod
    def of_base(cls, metadata: Mapping[str, Any], *, distilled: bool = False, **overrides: float | None) -> Guidance:
        """The published scales, overridden by `guidance` in the checkpoint's metadata, then by `overrides`.

        A distilled model is sampled without guidance. An override of None has no effect. Raises `CheckpointError` when
        `guidance` is not a JSON object of scales.
        """
        own = metadata.get("guidance", {})
        try:
            guidance = cls(**{name: float(value) for name, value in own.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's metadata has guidance {own!r}: {error}") from error
        guidance = OFF if distilled else guidance
        return replace(guidance, **{name: value for name, value in overrides.items() if value is not None})


OFF = Guidance(cfg=1.0, stg=0.0, modality=1.0)


def stg_blocks(layers: int) -> frozenset[int]:
    """The block to perturb: the published one, or in a model of other depth the one at the same relative depth."""
    return frozenset({PUBLISHED_STG_BLOCK * layers // PUBLISHED_LAYERS})


def guide(
    conditional: Tensor,
    guidance: Guidance,
    *,
    unconditional: Tensor | None = None,
    perturbed: Tensor | None = None,
    isolated: Tensor | None = None,
    reference_BRC: Tensor | None = None,
) -> Tensor:
    """The guided clean latents (B, T, C) from predictions of the same shape; a missing prediction has no effect.

    `reference_BRC`: the clean frames beside the target. All predictions agree on them, so they count in the standard
    deviations alone.
    """
    guided = conditional
    if unconditional is not None:
        guided = guided + (guidance.cfg - 1) * (conditional - unconditional)
    if perturbed is not None:
        guided = guided + guidance.stg * (conditional - perturbed)
    if isolated is not None:
        guided = guided + (guidance.modality - 1) * (conditional - isolated)
    ratio = _std(conditional, reference_BRC) / _std(guided, reference_BRC)
    return guided * torch.lerp(torch.ones_like(ratio), ratio, guidance.rescale)


def _std(target_BTC: Tensor, reference_BRC: Tensor | None) -> Tensor:
    """(B, 1, 1)."""
    tokens = target_BTC if reference_BRC is None else torch.cat([reference_BRC, target_BTC], dim=1)
    return tokens.std(dim=(1, 2), keepdim=True)
