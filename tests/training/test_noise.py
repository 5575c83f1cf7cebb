import pytest
import torch

from sonolora.sampling.noise_schedule import sampling_sigmas
from sonolora.training.noise import DENSITIES, draw_sigma, shift


# Mean and quartiles that were measured on the publisher's own sampler.
@pytest.mark.parametrize(("tokens", "mean"), [(51, 0.578), (126, 0.581), (501, 0.600), (4096, 0.743)])
def test_mean_of_the_published_density(tokens, mean):
    draws = torch.tensor([draw_sigma("published", tokens, "test", index) for index in range(20_000)])
    assert draws.mean().item() == pytest.approx(mean, abs=0.006)


def test_quartiles_of_the_published_density_at_five_seconds():
    draws = torch.tensor([draw_sigma("published", 126, "test", index) for index in range(20_000)])
    found = draws.quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(found, torch.tensor([0.41, 0.61, 0.78]), atol=0.01, rtol=0)


def test_shift_goes_through_the_published_anchors():
    assert shift(1024) == pytest.approx(0.95)
    assert shift(4096) == pytest.approx(2.05)
    assert shift(126) == pytest.approx(0.628, abs=1e-3)


def test_the_clamped_density_is_the_published_one_at_its_anchors():
    def draws(density, tokens):
        return [draw_sigma(density, tokens, "test", index) for index in range(50)]

    assert draws("clamped", 126) == draws("published", 1024) != draws("published", 126)
    assert draws("clamped", 9000) == draws("published", 4096)
    assert draws("clamped", 2000) == draws("published", 2000)


def test_the_matched_density_visits_every_step_of_the_sampler_equally_often():
    draws = torch.tensor([draw_sigma("matched", 126, "test", index) for index in range(30_000)])
    levels = sampling_sigmas(30).flip(0)
    counts = torch.histogram(draws, bins=levels).hist
    torch.testing.assert_close(counts, torch.full((30,), 1000.0), atol=130, rtol=0)


@pytest.mark.parametrize("density", DENSITIES)
def test_draws_are_in_range_and_depend_on_the_key_alone(density):
    draws = [draw_sigma(density, 126, 7, step) for step in range(500)]
    assert all(0 <= draw <= 1 for draw in draws)
    assert len(set(draws)) == 500
    assert draws == [draw_sigma(density, 126, 7, step) for step in range(500)]
