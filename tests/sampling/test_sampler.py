from dataclasses import replace

import pytest
import torch

from sonolora.conditioning import Example, Video, velocity
from sonolora.core.randomness import normal
from sonolora.cuda_graph import CudaGraphSteps
from sonolora.ltx.model.transformer import load_transformer
from sonolora.planning.generate_settings import SAMPLERS as NAMES
from sonolora.sampling.denoiser import GuidedDenoiser
from sonolora.sampling.guidance import Guidance, guide, stg_blocks
from sonolora.sampling.sampler import SAMPLERS, SamplingSettings, adams_bashforth, euler, sample

PLAIN = Guidance(cfg=1, stg=0, rescale=0)


class ExactModel:
    """Knows the clean latents, so that its velocity is exact: the sampler must find them at any number of steps."""

    def __init__(self, like, clean):
        self.config = like.config
        self.clean = clean

    def __call__(self, audio, video, *, values_only_blocks, values_only_B, video_velocity):  # noqa: ARG002
        clean = self.clean.repeat(len(audio.latents_BTC) // len(self.clean), 1, 1)
        return (audio.latents_BTC - clean) / audio.sigma_B[:, None, None], None


@pytest.fixture
def example(cases):
    return Example(cases["audio_latents"], cases["audio_context"])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_follows_an_exact_velocity_to_the_clean_latents(transformer, example, steps, sampler):
    clean = normal(tuple(example.latents_BTC.shape), "clean")
    noise = normal(tuple(clean.shape), "noise")
    model = ExactModel(transformer, clean)
    latents = sample(model, example, example.context_BSD, noise, SamplingSettings(steps, PLAIN, sampler))
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_kept_frames_come_out_untouched(transformer, example, cases, sampler):
    example = replace(example, keep_BT=cases["keep"].bool())
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    latents = sample(
        transformer,
        example,
        torch.zeros_like(example.context_BSD),
        noise,
        SamplingSettings(3, sampler=sampler),
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
        sample(model, example, negative_context, noise, SamplingSettings(3, Guidance(modality=2.0), graphs=graphs))
        for graphs in (None, CudaGraphSteps())
    )
    assert torch.equal(eager, static)
    without_negative = sample(model, example, example.context_BSD, noise, SamplingSettings(3, Guidance(modality=2.0)))
    assert not torch.equal(eager, without_negative), "the negative prompt has an effect"


class Counted:
    """Counts the samples and the text contexts of each pass of a model."""

    def __init__(self, model):
        self.model, self.config, self.passes = model, model.config, []

    def __call__(self, audio, *args, **options):
        self.passes.append((len(audio.latents_BTC), len(audio.context_BSD)))
        return self.model(audio, *args, **options)


@pytest.mark.parametrize(
    ("guidance", "predictions", "contexts"),
    [(PLAIN, 1, 1), (Guidance(stg=0), 2, 2), (Guidance(cfg=1), 2, 1), (Guidance(), 3, 2)],
)
def test_predictions_share_a_pass_and_texts_and_guidance_that_is_off_costs_none(
    transformer, example, guidance, predictions, contexts
):
    model = Counted(ExactModel(transformer, torch.zeros_like(example.latents_BTC)))
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    sample(model, example, example.context_BSD, noise, SamplingSettings(2, guidance))
    assert model.passes == [(predictions * len(noise), contexts * len(noise))] * 2


@pytest.mark.parametrize("mode", ["t2a", "a2a", "inpaint", "v2a"])
def test_one_pass_for_all_predictions_gives_what_single_passes_give(checkpoint, cases, mode):
    """Of two samples at once, each with its own conditioning."""
    model = load_transformer(checkpoint, video=mode == "v2a", device=torch.device("cpu"), dtype=torch.float32)
    latents, context = cases["audio_latents"], cases["audio_context"]
    example = Example(
        latents,
        context,
        cases["keep"].bool() if mode == "inpaint" else None,
        normal((2, 5, latents.shape[2]), "reference") if mode == "a2a" else None,
        Video(cases["video_latents"], cases["video_positions"].mean(-1), cases["video_context"])
        if mode == "v2a"
        else None,
    )
    negative, noisy = 0.5 * context.flip(1), normal(tuple(latents.shape), "noise")
    together = GuidedDenoiser(model, example, negative, Guidance())(noisy, 0.7)
    sigma = torch.full((2,), 0.7)
    keep = torch.zeros(2, latents.shape[1], dtype=torch.bool) if example.keep_BT is None else example.keep_BT

    @torch.no_grad()
    def predicted(one, blocks=frozenset()):
        clean = noisy - 0.7 * velocity(model, one, noisy, sigma, values_only_blocks=blocks)
        return torch.where(keep[..., None], latents, clean)

    single = guide(
        predicted(example),
        Guidance(),
        unconditional=predicted(replace(example, context_BSD=negative)),
        perturbed=predicted(example, stg_blocks(model.config.layers)),
        isolated=predicted(replace(example, video=None)) if mode == "v2a" else None,
        reference_BRC=example.reference_BRC,
    )
    expected = torch.where(keep[..., None], latents, single)
    torch.testing.assert_close(together.detach(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (adams_bashforth, 2)])
def test_the_order_of_a_sampler(sampler, order):
    """Twice the steps give an error smaller by two to the power of the order, where the clean data is Gaussian."""
    noise = normal((1, 50, 4), "noise").double()

    def denoise(x, sigma, spread=0.5):
        return x * (1 - sigma) * spread**2 / ((1 - sigma) ** 2 * spread**2 + sigma**2)

    def result(steps):
        return sampler(denoise, noise, torch.linspace(0.95, 0.05, steps + 1).tolist())

    exact = adams_bashforth(denoise, noise, torch.linspace(0.95, 0.05, 4001).tolist())
    coarse, fine = ((result(steps) - exact).square().mean().sqrt() for steps in (40, 80))
    assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_every_sampler_can_be_asked_for_by_name():
    assert tuple(SAMPLERS) == NAMES
