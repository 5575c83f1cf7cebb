from dataclasses import replace

import pytest
import torch

from sonolora.conditioning import Example
from sonolora.randomness import normal
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
    found = sample(ExactModel(transformer, clean), example, example, noise, SamplingSettings(steps, PLAIN))
    torch.testing.assert_close(found, clean, atol=1e-5, rtol=1e-5)


def test_kept_frames_come_out_untouched(transformer, example, cases):
    example = replace(example, keep_BT=cases["keep"].bool())
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    found = sample(
        transformer,
        example,
        replace(example, context_BSD=torch.zeros_like(example.context_BSD)),
        noise,
        SamplingSettings(3),
    )
    keep = example.keep_BT
    assert torch.equal(found[keep], example.latents_BTC[keep])
    assert not torch.isclose(found[~keep], example.latents_BTC[~keep]).any(dim=-1).all()


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
        sample(Counted(), example, example, noise, SamplingSettings(1, guidance))
        assert len(passes) == expected
