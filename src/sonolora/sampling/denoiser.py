"""The denoiser: the guided prediction of the clean latents from noisy ones.

In: a model, an `Example` with the conditioning, the negative prompt's context for the audio stream, guidance scales;
then noisy latents and a noise level. Out: clean latents of the same shape. A sampler needs nothing but this function.

B batch, T target frames, S text tokens, D width of the audio context, C latent channels, P predictions in one pass.
Source: the published x0-prediction (x - sigma * velocity), masking of clean tokens, and guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sonolora.conditioning import Example, map_tensors, velocity
from sonolora.cuda_graph import Compute, CudaGraphSteps
from sonolora.ltx.model.transformer import Transformer
from sonolora.sampling.guidance import Guidance, guide, stg_blocks

Denoise = Callable[[Tensor, float], Tensor]
"""(noisy latents (B, T, C), sigma) -> predicted clean latents (B, T, C), both float32."""


class GuidedDenoiser:
    """The `Denoise` of one example; frames that the example keeps are returned as they are in it.

    The conditional, negative and perturbed predictions come out of one forward pass, as samples of one batch; the one
    without the video, which runs other layers, out of a second. The negative prediction differs in the audio stream's
    context alone: a video keeps its own, as published. With `graphs` both passes read static inputs, on a GPU as CUDA
    graphs, which denoisers of the same model and guidance share; not yet run on a GPU.
    """

    def __init__(
        self,
        model: Transformer,
        example: Example,
        negative_context_BSD: Tensor,
        guidance: Guidance,
        *,
        graphs: CudaGraphSteps | None = None,
    ) -> None:
        self._example = example
        self._alone = replace(example, video=None)
        self._guidance = guidance
        batch, device = len(example.latents_BTC), example.latents_BTC.device
        names, contexts = ["conditional"], [example.context_BSD]
        if guidance.cfg != 1:
            names.append("unconditional")
            contexts.append(negative_context_BSD)
        index_B = torch.arange(len(names) * batch, device=device)
        if guidance.stg != 0:
            names.append("perturbed")
            index_B = torch.cat([index_B, index_B[:batch]])  # its keys and values of the text are the conditional's
        self._names = tuple(names)
        batched = map_tensors(lambda parts: _repeated(parts[0], len(names)), example)
        self._batched = replace(batched, context_BSD=torch.cat(contexts))
        perturbed_B = torch.tensor([name == "perturbed" for name in names], device=device).repeat_interleave(batch)
        blocks = stg_blocks(model.config.layers) if guidance.stg != 0 else frozenset[int]()
        together = partial(
            velocity, model, values_only_blocks=blocks, values_only_B=perturbed_B,
            context_index_B=index_B if guidance.stg != 0 else None,
        )  # fmt: skip
        self._predict_together: Compute = together
        self._predict_isolated: Compute = partial(velocity, model)
        if graphs is not None:
            self._predict_together = graphs.static(self._names, together)
            self._predict_isolated = graphs.static("isolated", self._predict_isolated)

    def __call__(self, x_BTC: Tensor, sigma: float) -> Tensor:
        example, count = self._example, len(self._names)
        sigma_B = torch.full_like(x_BTC[:, 0, 0], sigma)
        velocities = self._predict_together(self._batched, _repeated(x_BTC, count), sigma_B.repeat(count))
        clean = [self._with_kept(x_BTC - sigma * one) for one in velocities.chunk(count)]
        isolated = None
        if example.video is not None and self._guidance.modality != 1:
            isolated = self._with_kept(x_BTC - sigma * self._predict_isolated(self._alone, x_BTC, sigma_B))
        conditional, *others = clean
        guided = guide(
            conditional,
            self._guidance,
            **dict(zip(self._names[1:], others, strict=True)),
            isolated=isolated,
            reference_BRC=example.reference_BRC,
        )
        return self._with_kept(guided)

    def _with_kept(self, x_BTC: Tensor) -> Tensor:
        keep_BT = self._example.keep_BT
        return x_BTC if keep_BT is None else torch.where(keep_BT[..., None], self._example.latents_BTC, x_BTC)


def _repeated(tensor: Tensor, count: int) -> Tensor:
    """(count * B, ...), the whole batch each time; without a copy where it is one sample."""
    rest = tensor.shape[1:]
    return tensor.expand(count, *rest) if len(tensor) == 1 else tensor.repeat(count, *[1] * len(rest))
