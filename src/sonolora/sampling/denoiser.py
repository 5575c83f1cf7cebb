"""The denoiser: the guided prediction of the clean latents from noisy ones.

In: a model, an `Example` with the conditioning, the negative prompt's context for the audio stream, guidance scales;
then noisy latents and a noise level. Out: clean latents of the same shape. A sampler knows nothing but this function.

B batch, T target frames, S text tokens, D width of the audio context, C latent channels.
Source: the published x0-prediction (x - sigma * velocity), masking of clean tokens, and guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sonolora.conditioning import Example, velocity
from sonolora.cuda_graph import CudaGraphStep
from sonolora.ltx.model.transformer import NO_BLOCKS, Transformer
from sonolora.sampling.guidance import Guidance, guide, stg_blocks

Denoise = Callable[[Tensor, float], Tensor]
"""(noisy latents (B, T, C), sigma) -> predicted clean latents (B, T, C), both float32."""


class GuidedDenoiser:
    """The `Denoise` of one example; frames that the example keeps are returned as they are in it.

    The negative pass replaces the audio stream's context alone: a video keeps its own, as published. With `static`
    every kind of pass reads static inputs of its own, on a GPU as a CUDA graph; not yet run on a GPU.
    """

    def __init__(
        self,
        model: Transformer,
        example: Example,
        negative_context_BSD: Tensor,
        guidance: Guidance,
        *,
        static: bool = False,
    ) -> None:
        self._model = model
        self._example = example
        self._negative = replace(example, context_BSD=negative_context_BSD)
        self._guidance = guidance
        self._stg_blocks = stg_blocks(model.config.layers)
        self._static = static
        self._pool = torch.cuda.graph_pool_handle() if static and torch.cuda.is_available() else None
        self._graphs: dict[tuple[frozenset[int], bool], CudaGraphStep] = {}

    def __call__(self, x_BTC: Tensor, sigma: float) -> Tensor:
        example, guidance = self._example, self._guidance
        sigma_B = torch.full_like(x_BTC[:, 0, 0], sigma)

        def predict(one: Example, perturbed: frozenset[int] = NO_BLOCKS) -> Tensor:
            return self._with_kept(x_BTC - sigma_B[:, None, None] * self._velocity(one, x_BTC, sigma_B, perturbed))

        guided = guide(
            predict(example),
            guidance,
            unconditional=predict(self._negative) if guidance.cfg != 1 else None,
            perturbed=predict(example, self._stg_blocks) if guidance.stg != 0 else None,
            isolated=predict(replace(example, video=None))
            if example.video is not None and guidance.modality != 1
            else None,
            reference_BRC=example.reference_BRC,
        )
        return self._with_kept(guided)

    def _velocity(self, example: Example, x_BTC: Tensor, sigma_B: Tensor, perturbed: frozenset[int]) -> Tensor:
        compute = partial(velocity, self._model, values_only_blocks=perturbed)
        if not self._static:
            return compute(example, x_BTC, sigma_B)
        kind = perturbed, example.video is None
        if kind not in self._graphs:
            self._graphs[kind] = CudaGraphStep(self._pool)
        return self._graphs[kind](compute, example, x_BTC, sigma_B)

    def _with_kept(self, x_BTC: Tensor) -> Tensor:
        keep_BT = self._example.keep_BT
        return x_BTC if keep_BT is None else torch.where(keep_BT[..., None], self._example.latents_BTC, x_BTC)
