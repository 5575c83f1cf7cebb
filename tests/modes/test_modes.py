"""What the modes say of themselves."""

from __future__ import annotations

from sonolora.modes import MODES


def test_the_publishers_noise_density_is_the_default_wherever_no_other_measured_better():
    others = {name: mode.sigma_density for name, mode in MODES.items() if mode.sigma_density != "published"}
    assert others == {"a2a": "matched"}
