"""The Euler sampler: from noise to clean latents, with guidance.

In: a model, an `Example` with the conditioning, the negative prompt's context for the audio stream, and noise.
Out: the target's clean latents (B, T, C). B batch, T target frames, S text tokens, D width of
the audio context, C latent channels.
Source: the published Euler step, x0-prediction and masking of clean tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from sonolora.conditioning import Example, velocity
from sonolora.cuda_graph import CudaGraphStep
from sonolora.ltx.model.transformer import NO_BLOCKS, Transformer
from sonolora.sampling.guidance import Guidance, guide, stg_blocks
from sonolora.sampling.noise_schedule import sampling_sigmas


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample; the defaults are the published values."""

    steps: int = 30
    guidance: Guidance = field(default_factory=Guidance)
    static: bool = False  # forward passes read static inputs, on a GPU as CUDA graphs; not yet run on a GPU


@torch.inference_mode()
def sample(
    model: Transformer,
    example: Example,
    negative_context_BSD: Tensor,
    noise_BTC: Tensor,
    settings: SamplingSettings,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Clean latents (B, T, C), float32, from noise of the same shape. Kept frames are those of the example, exactly.

    The negative pass replaces the audio stream's context alone: a video keeps its own, as published.
    """
    guidance = settings.guidance
    blocks = stg_blocks(model.config.layers)
    negative = replace(example, context_BSD=negative_context_BSD)
    x = _with_kept(noise_BTC, example)
    sigmas = sampling_sigmas(settings.steps).tolist()
    passes = _Passes(model, static=settings.static)
    for sigma, next_sigma in pairwise(sigmas):
        sigma_B = torch.full_like(x[:, 0, 0], sigma)

        def clean(
            one: Example, perturbed: frozenset[int] = NO_BLOCKS, x: Tensor = x, sigma_B: Tensor = sigma_B
        ) -> Tensor:
            predicted = x - sigma_B[:, None, None] * passes(one, x, sigma_B, perturbed)
            return _with_kept(predicted, one)

        guided = guide(
            clean(example),
            guidance,
            unconditional=clean(negative) if guidance.cfg != 1 else None,
            perturbed=clean(example, blocks) if guidance.stg != 0 else None,
            isolated=clean(replace(example, video=None))
            if example.video is not None and guidance.modality != 1
            else None,
            reference_BRC=example.reference_BRC,
        )
        guided = _with_kept(guided, example)
        x = guided + (next_sigma / sigma) * (x - guided)
        on_step()
    return x


class _Passes:
    """The model's velocity; with `static` each kind of pass has static inputs of its own."""

    def __init__(self, model: Transformer, *, static: bool) -> None:
        self._model = model
        self._static = static
        self._pool = torch.cuda.graph_pool_handle() if static and torch.cuda.is_available() else None
        self._kinds: dict[tuple[frozenset[int], bool], CudaGraphStep] = {}

    def __call__(self, example: Example, noisy_BTC: Tensor, sigma_B: Tensor, perturbed: frozenset[int]) -> Tensor:
        compute = partial(velocity, self._model, values_only_blocks=perturbed)
        if not self._static:
            return compute(example, noisy_BTC, sigma_B)
        kind = perturbed, example.video is None
        if kind not in self._kinds:
            self._kinds[kind] = CudaGraphStep(self._pool)
        return self._kinds[kind](compute, example, noisy_BTC, sigma_B)


def _with_kept(x: Tensor, example: Example) -> Tensor:
    return x if example.keep_BT is None else torch.where(example.keep_BT[..., None], example.latents_BTC, x)
