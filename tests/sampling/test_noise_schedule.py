import pytest
import torch

from sonolora.sampling.noise_schedule import sampling_sigmas


@pytest.mark.parametrize("steps", [8, 30])
def test_equals_the_publisher(cases, steps):
    torch.testing.assert_close(sampling_sigmas(steps), cases[f"schedule.sigmas_{steps}"], atol=3e-7, rtol=0)


def test_falls_from_one_to_zero():
    for steps in (1, 2, 17):
        sigmas = sampling_sigmas(steps)
        assert sigmas.shape == (steps + 1,)
        assert sigmas[0] == 1
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()


def test_no_steps_is_an_error():
    with pytest.raises(ValueError, match="at least one step"):
        sampling_sigmas(0)
