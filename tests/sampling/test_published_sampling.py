"""The whole sampling loop, held to a second derivation of the publisher's validation from its equations.

The derivation works on the whole audio sequence, reference first, as the publisher's code does: x0 = x - t v with a
timestep a token, guidance and rescaling on all tokens of a sample at once, then clean tokens put back. The network
itself is held to the publisher's outputs by `tests/ltx/test_golden.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sonolora.conditioning import Example, Video
from sonolora.core.randomness import normal
from sonolora.ltx.model.frozen_video import cache_video_kv
from sonolora.ltx.model.transformer import Stream, load_transformer
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings, sample

STEPS = 4
CPU = torch.device("cpu")


def middles(frames):
    """Of (start, end) in float32 seconds, (frames,)."""
    bounds = [[max(0.0, 0.04 * i - 0.03), 0.04 * i + 0.01] for i in range(frames)]
    return torch.tensor(bounds).reshape(-1, 2).mean(-1)


def schedule(steps):
    shifted = [math.exp(2.05) / (math.exp(2.05) + 1 / (1 - i / steps) - 1) for i in range(steps)]
    scale = 0.9 / (1 - shifted[-1])
    return [1 - (1 - sigma) * scale for sigma in shifted] + [0.0]


@torch.no_grad()
def published_validation(model, clean, denoise, positions, noise, context, negative, guidance, video):
    """`clean`, `noise`: (1, N, C) of all audio tokens; `denoise`: (1, N) bool; `video`: a `Stream` or None."""
    mask = denoise[..., None].float()
    x = noise * mask + clean * (1 - mask)
    sigmas = schedule(STEPS)
    for sigma, lower in pairwise(sigmas):

        def x0(words, video=video, blocks=frozenset(), x=x, sigma=sigma):
            audio = Stream(x, positions, torch.tensor([sigma]), words, ~denoise)
            velocity, _ = model(audio, video, values_only_blocks=blocks)
            return x - velocity * sigma * mask

        cond = x0(context)
        guided = cond + (guidance.cfg - 1) * (cond - x0(negative))
        guided = guided + guidance.stg * (cond - x0(context, blocks=frozenset({28 * model.config.layers // 48})))
        if video is not None:
            guided = guided + (guidance.modality - 1) * (cond - x0(context, video=None))
        factor = cond.std() / guided.std()
        guided = guided * (guidance.rescale * factor + (1 - guidance.rescale))
        guided = guided * mask + clean * (1 - mask)
        x = x + (x - guided) / sigma * (lower - sigma)
    return x


def one(cases, *names):
    """The first sample of the golden inputs."""
    return [cases[name][:1] for name in names]


def assert_agrees(latents, expected):
    difference = (latents - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert difference < 8e-6, difference


@pytest.mark.parametrize("mode", ["t2a", "a2a", "inpaint"])
def test_audio_modes_at_published_guidance(transformer, cases, mode):
    latents, context, keep = one(cases, "audio_latents", "audio_context", "keep")
    frames, negative = latents.shape[1], context.flip(1) * 0.5
    reference = normal((1, 7, latents.shape[2]), "reference") * 2 if mode == "a2a" else None
    example = Example(latents, context, keep.bool() if mode == "inpaint" else None, reference)
    noise = normal(tuple(latents.shape), "noise")
    got = sample(transformer, example, negative, noise, SamplingSettings(STEPS))

    front = 0 if reference is None else reference.shape[1]
    clean = latents if reference is None else torch.cat([reference, latents], dim=1)
    denoise = torch.ones(1, front + frames, dtype=torch.bool)
    denoise[:, :front] = False
    if mode == "inpaint":
        denoise[:, front:] = ~keep.bool()
    positions = torch.cat([middles(front), middles(frames)])[None, None]
    all_noise = torch.cat([torch.zeros(1, front, latents.shape[2]), noise], dim=1)
    expected = published_validation(
        transformer, clean, denoise, positions, all_noise, context, negative, Guidance(), None
    )
    assert_agrees(got, expected[:, front:])


def test_the_negative_pass_of_v2a_keeps_the_words_of_the_video(checkpoint, cases):
    model = load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)
    latents, context, video_latents, video_context, bounds = one(
        cases, "audio_latents", "audio_context", "video_latents", "video_context", "video_positions"
    )
    video = Video(video_latents, bounds.mean(-1), video_context)
    negative, noise = context.flip(1) * 0.5, normal(tuple(latents.shape), "noise")
    got = sample(model, Example(latents, context, video=video), negative, noise, SamplingSettings(STEPS))
    frames = latents.shape[1]
    expected = published_validation(
        model,
        latents,
        torch.ones(1, frames, dtype=torch.bool),
        middles(frames)[None, None],
        noise,
        context,
        negative,
        Guidance(),
        Stream(video.latents_BNC, video.positions_BXN, torch.zeros(1), video_context),
    )
    assert_agrees(got, expected)


def test_a_cached_video_serves_both_passes(checkpoint, cases):
    """One set of keys and values for the prompt and the negative prompt, since the video has the same words in both."""
    half = load_transformer(checkpoint, video=False, one_way=True, device=CPU, dtype=torch.float32)
    latents, context, video_latents, video_context, bounds = one(
        cases, "audio_latents", "audio_context", "video_latents", "video_context", "video_positions"
    )
    stream = Stream(video_latents, bounds.mean(-1), torch.zeros(1), video_context)
    (cached,) = cache_video_kv(checkpoint, [stream], device=CPU, dtype=torch.float32, storage_device=CPU)
    example, negative = Example(latents, context, video=cached), context.flip(1) * 0.5
    noise = normal(tuple(latents.shape), "noise")
    guided, unguided = (
        sample(half, example, negative, noise, SamplingSettings(STEPS, replace(Guidance(), cfg=cfg))) for cfg in (7, 1)
    )
    assert not torch.allclose(guided, unguided)
