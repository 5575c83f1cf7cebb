"""The study of noise levels: what it measures of sounds, and what its page says of differences between seeds."""

from __future__ import annotations

import pytest
from experiment import Plan
from made_data import make
from noise_levels import SIGMAS, metrics, page


def row(variant, seed, loss, main):
    sounds = {"main": main, "log_mel": 6 - main, "learned": 20.0}
    return {"mode": "v2a", "variant": variant, "seed": seed, "losses": [loss] * len(SIGMAS), "sounds": sounds}


def test_the_truth_has_no_distance_to_itself_in_either_space():
    samples = [make("a2a", 0, index, 0.5) for index in range(2)]
    found = metrics("a2a", samples, [made.true for made in samples])
    assert found == {"main": pytest.approx(0), "log_mel": pytest.approx(0), "learned": pytest.approx(0)}
    others = metrics("a2a", samples, [made.reference for made in samples])
    assert others["main"] == others["log_mel"] > 1 and others["learned"] > 1


def test_differences_are_paired_by_seed_with_an_interval_over_seeds():
    usual = [row("published", seed, 0.5 + seed, 0.8) for seed in range(3)]
    gains = (0.1, 0.2, 0.3)
    matched = [row("matched", seed, 0.5 + seed - gain, 0.8 + gain) for seed, gain in enumerate(gains)]
    text = page([*usual, *matched], Plan())
    (line,) = [line for line in text.splitlines() if line.startswith("| matched")]
    # Student's t for two degrees of freedom is 4.303; the standard error is 0.1 / sqrt(3).
    assert line.count("(-0.2000 ± 0.2484) [3 of 3]") == 3, "both losses and the log-mel distance"
    assert "(+0.2000 ± 0.2484) [3 of 3]" in line, "of the F-score higher is better"
    assert line.endswith("| 20.0000 |"), "no difference, no interval"
