from dataclasses import replace

import pytest
import torch

from sonolora.conditioning import Example, Video
from sonolora.core.randomness import normal
from sonolora.ltx.model.transformer import load_transformer
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings, sample

PLAIN = Guidance(cfg=1, stg=0, rescale=0)


class ExactModel:
    """Knows the clean latents, so that its velocity is exact: the sampler must find them at any number of steps."""

    def __init__(self, like, clean):
        self.config = like.config
        self.clean = clean

    def __call__(self, audio, video, *, values_only_blocks):  # noqa: ARG002
        velocity = (audio.latents_BTC - self.clean) / audio.sigma_B[:, None, None]
        return velocity, None


@pytest.fixture
def example(cases):
    return Example(cases["audio_latents"], cases["audio_context"])


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_follows_an_exact_velocity_to_the_clean_latents(transformer, example, steps):
    clean = normal(tuple(example.latents_BTC.shape), "clean")
    noise = normal(tuple(clean.shape), "noise")
    model = ExactModel(transformer, clean)
    latents = sample(model, example, example.context_BSD, noise, SamplingSettings(steps, PLAIN))
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)


def test_kept_frames_come_out_untouched(transformer, example, cases):
    example = replace(example, keep_BT=cases["keep"].bool())
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    latents = sample(
        transformer,
        example,
        torch.zeros_like(example.context_BSD),
        noise,
        SamplingSettings(3),
    )
    keep = example.keep_BT
    assert torch.equal(latents[keep], example.latents_BTC[keep])
    assert not torch.isclose(latents[~keep], example.latents_BTC[~keep]).any(dim=-1).all()


def test_passes_on_static_inputs_are_bit_identical(checkpoint, cases):
    """With all four kinds of pass, two of which share their inputs."""
    model = load_transformer(checkpoint, video=True, device=torch.device("cpu"), dtype=torch.float32)
    video = Video(cases["video_latents"], cases["video_positions"].mean(-1), cases["video_context"])
    example = Example(cases["audio_latents"], cases["audio_context"], cases["keep"].bool(), video=video)
    negative_context = 0.5 * example.context_BSD
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    eager, static = (
        sample(model, example, negative_context, noise, SamplingSettings(3, Guidance(modality=2.0), static=static))
        for static in (False, True)
    )
    assert torch.equal(eager, static)
    without_negative = sample(model, example, example.context_BSD, noise, SamplingSettings(3, Guidance(modality=2.0)))
    assert not torch.equal(eager, without_negative), "the negative prompt has an effect"


def test_guidance_that_is_off_costs_no_pass(transformer, example):
    passes = []
    model = ExactModel(transformer, torch.zeros_like(example.latents_BTC))

    class Counted:
        config = model.config

        def __call__(self, *args, **options):
            passes.append(1)
            return model(*args, **options)

    noise = normal(tuple(example.latents_BTC.shape), "noise")
    for guidance, expected in ((PLAIN, 1), (Guidance(stg=0), 2), (Guidance(), 3)):
        passes.clear()
        sample(Counted(), example, example.context_BSD, noise, SamplingSettings(1, guidance))
        assert len(passes) == expected
