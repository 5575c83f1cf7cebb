"""Samplers: from noise to clean latents. A sampler is a pure function of a denoiser, noise and a schedule of sigmas.

B batch, T target frames, S text tokens, D width of the audio context, C latent channels.
Source: the published Euler step; samplers as in k-diffusion, apart from the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.cuda_graph import CudaGraphSteps
from sonolora.ltx.model.transformer import Transformer
from sonolora.sampling.denoiser import Denoise, GuidedDenoiser
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import DISTILLED_SIGMAS, DISTILLED_STEPS, sampling_sigmas
from sonolora.sampling.windows import WindowedDenoiser


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample; the defaults are the published values."""

    steps: int = 30  # of the published schedule
    guidance: Guidance = field(default_factory=Guidance)
    sampler: str = "euler"  # one of SAMPLERS
    graphs: CudaGraphSteps | None = None  # forward passes read static inputs, on a GPU as CUDA graphs
    distilled: bool = False  # in the schedule of distilled models, whose steps are given

    def __post_init__(self) -> None:
        if self.distilled and self.steps != DISTILLED_STEPS:
            raise ValueError(f"the schedule of distilled models has {DISTILLED_STEPS} steps, not {self.steps}")

    @property
    def sigmas(self) -> list[float]:
        """Noise levels, falling to 0."""
        return list(DISTILLED_SIGMAS) if self.distilled else sampling_sigmas(self.steps).tolist()


@torch.inference_mode()
def sample(
    model: Transformer,
    example: Example,
    negative_context_BSD: Tensor,
    noise_BTC: Tensor,
    settings: SamplingSettings,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Clean latents (B, T, C), float32, from noise of the same shape. Kept frames are those of the example, exactly."""
    return sample_windows(model, [(0, example)], negative_context_BSD, noise_BTC, settings, on_step)


@torch.inference_mode()
def sample_windows(
    model: Transformer,
    windows: Sequence[tuple[int, Example]],
    negative_context_BSD: Tensor,
    noise_BTC: Tensor,
    settings: SamplingSettings,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """The same for a sound whose windows, (first frame, example) each, are denoised together."""
    denoisers = [
        GuidedDenoiser(model, example, negative_context_BSD, settings.guidance, graphs=settings.graphs)
        for _, example in windows
    ]
    starts, window = [start for start, _ in windows], windows[0][1].latents_BTC.shape[1]
    denoise = denoisers[0] if len(windows) == 1 else WindowedDenoiser(denoisers, starts, window, noise_BTC.shape[1])
    return SAMPLERS[settings.sampler](denoise, noise_BTC, settings.sigmas, on_step)


@torch.inference_mode()
def sample_continued(
    model: Transformer,
    example: Example,
    starts: Sequence[int],
    window: int,
    negative_context_BSD: Tensor,
    noise_BTC: Tensor,
    settings: SamplingSettings,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """The same for a sound of which a part is kept, one window of `window` frames after another in the order `starts`.

    Each window keeps what is given or generated of it already, and generates the rest. `on_step` is called for each
    step of each window.
    """
    assert example.keep_BT is not None
    latents_BTC, keep_BT = example.latents_BTC.clone(), example.keep_BT.clone()
    for start in starts:
        part = slice(start, start + window)
        own = replace(example, latents_BTC=latents_BTC[:, part], keep_BT=keep_BT[:, part])
        latents_BTC[:, part] = sample(model, own, negative_context_BSD, noise_BTC[:, part], settings, on_step)
        keep_BT[:, part] = True
    return latents_BTC


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], on_step: Callable[[], None] = lambda: None) -> Tensor:
    """The published sampler, of first order: one prediction a step. `sigmas` fall to 0; `x` is noise at the first."""
    for sigma, next_sigma in pairwise(sigmas):
        clean = denoise(x, sigma)
        x = clean + (next_sigma / sigma) * (x - clean)
        on_step()
    return x


def adams_bashforth(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], on_step: Callable[[], None] = lambda: None
) -> Tensor:
    """Of second order, at one prediction a step: the velocity is extrapolated from the last two steps.

    The first step and the one to 0 are Euler's. Source: the two-step Adams-Bashforth method for unequal steps.
    """
    last_velocity, last_step = None, 0.0
    for sigma, next_sigma in pairwise(sigmas):
        clean = denoise(x, sigma)
        velocity, step = (x - clean) / sigma, next_sigma - sigma
        if next_sigma == 0:
            x = clean
        elif last_velocity is None:
            x = x + step * velocity
        else:
            x = x + step * (velocity + 0.5 * step / last_step * (velocity - last_velocity))
        last_velocity, last_step = velocity, step
        on_step()
    return x


SAMPLERS = {"euler": euler, "ab2": adams_bashforth}
