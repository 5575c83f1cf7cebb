from itertools import pairwise

import pytest
import torch

from sonolora.conditioning import Example
from sonolora.core.randomness import normal
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings, euler, sample, sample_continued, sample_windows
from sonolora.sampling.windows import WindowedDenoiser, blend_weights, window_starts


@pytest.mark.parametrize(
    ("frames", "window", "overlap", "expected"),
    [(126, 126, 63, [0]), (10, 126, 63, [0]), (127, 126, 63, [0, 1]), (76, 26, 13, [0, 12, 25, 38, 50])],
)
def test_windows_cover_everything_and_overlap(frames, window, overlap, expected):
    starts = window_starts(frames, window, overlap)
    assert starts == expected
    if len(starts) > 1:
        assert starts[-1] + window == frames
        assert all(second - first <= window - overlap for first, second in pairwise(starts))


@pytest.mark.parametrize("overlap", [2, 6, 13, 20])
def test_weights_sum_to_one_and_a_first_frame_is_not_used(overlap):
    starts, window = window_starts(76, 26, overlap), 26
    weights = blend_weights(starts, window, 76)
    total = torch.zeros(76)
    for start, own in zip(starts, weights, strict=True):
        total[start : start + window] += own
    torch.testing.assert_close(total, torch.ones(76))
    assert (weights >= 0).all()
    assert not weights[1:, 0].any()
    assert weights[0, 0] == 1


def test_windows_that_agree_give_what_they_agree_on():
    clean = normal((1, 40, 3), "clean")
    starts = window_starts(40, 16, 6)
    denoisers = [lambda x, sigma, start=start: clean[:, start : start + 16] for start in starts]  # noqa: ARG005
    whole = WindowedDenoiser(denoisers, starts, 16, 40)
    torch.testing.assert_close(whole(torch.zeros_like(clean), 0.5), clean)
    torch.testing.assert_close(euler(whole, normal((1, 40, 3), "noise"), [1.0, 0.5, 0.0]), clean)


def test_windows_are_clips_of_their_own_and_share_the_noise(transformer, cases):
    """Two windows with nothing in common but their noise and prompts; and one window is the plain sampler."""
    latents, context = cases["audio_latents"][:1], cases["audio_context"][:1]
    example, frames = Example(latents, context), latents.shape[1]
    settings, noise = SamplingSettings(2, Guidance(stg=0)), normal((1, 2 * frames, latents.shape[2]), "noise")
    apart = sample_windows(transformer, [(0, example), (frames, example)], context, noise, settings)
    for half in (slice(0, frames), slice(frames, None)):
        torch.testing.assert_close(apart[:, half], sample(transformer, example, context, noise[:, half], settings))


def test_each_window_continues_what_is_there(transformer, cases):
    """What a window generates is kept by the next, as if it were given."""
    latents, context = cases["audio_latents"][:1], cases["audio_context"][:1]
    frames, window, given = latents.shape[1], latents.shape[1] - 3, 2
    keep = torch.zeros(1, frames, dtype=torch.bool)
    keep[:, :given] = True
    example, noise = Example(latents, context, keep), normal(tuple(latents.shape), "noise")
    settings = SamplingSettings(2, Guidance(stg=0))
    result = sample_continued(transformer, example, [0, 3], window, context, noise, settings)
    assert torch.equal(result[:, :given], latents[:, :given])
    first = Example(latents[:, :window], context, keep[:, :window])
    expected = sample(transformer, first, context, noise[:, :window], settings)
    assert torch.equal(result[:, :window], expected)
    keep = torch.arange(frames)[None, 3:] < window
    second = Example(result[:, 3:], context, keep)
    torch.testing.assert_close(result[:, 3:], sample(transformer, second, context, noise[:, 3:], settings))
    (single,) = [sample_continued(transformer, example, [0], frames, context, noise, settings)]
    assert torch.equal(single, sample(transformer, example, context, noise, settings))
