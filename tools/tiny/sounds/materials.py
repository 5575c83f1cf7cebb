"""Struck bodies: the material determines their modes. Videos and sounds share them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sounds.kind import Rng, Samples, samples_in
from sounds.mix import add_at
from sounds.modes import ring
from sounds.shaped import band, coloured
from sounds.waves import decay

_FREE_BAR = np.array([1.0, 2.756, 5.404, 8.933, 13.34, 18.64])  # bending modes of a bar, as ratios
_PLATE = np.array([1.0, 1.47, 2.09, 2.56, 3.22, 3.81, 4.6, 5.43, 6.3, 7.2, 8.4, 9.7])
_MEMBRANE = np.array([1.0, 1.59, 2.14, 2.30, 2.65, 2.92])
_CUP = np.array([1.0, 2.32, 4.25, 6.63, 9.38, 12.2])  # measured ratios of drinking glasses


@dataclass(frozen=True)
class Material:
    """`base_hz` is the lowest mode of a body of size 1; `decay_seconds` its time constant; higher modes lose
    `damping` more with each octave; `click` is the share of noise, around `click_hz`, that the contact makes."""

    name: str
    ratios: Samples
    base_hz: float
    decay_seconds: float
    damping: float
    click: float
    click_hz: float


MATERIALS = {
    material.name: material
    for material in (
        Material("rubber", _MEMBRANE, 110, 0.035, 1.2, 0.25, 900),
        Material("wooden", _FREE_BAR, 420, 0.045, 0.7, 0.5, 2200),
        Material("metal", _PLATE, 900, 0.42, 0.35, 0.35, 6000),
        Material("glass", _CUP, 1900, 0.16, 0.4, 0.5, 9000),
        Material("plastic", _PLATE, 750, 0.016, 0.5, 0.6, 3500),
        Material("stone", _FREE_BAR, 1300, 0.012, 0.4, 0.9, 4500),
        Material("ceramic", _CUP, 1100, 0.06, 0.5, 0.6, 6000),
        Material("cardboard", _MEMBRANE, 170, 0.02, 0.8, 0.7, 1200),
    )
}


@dataclass(frozen=True)
class Body:
    """One object: the same modes at every blow."""

    material: Material
    hertz: Samples
    decays: Samples
    amplitudes: Samples

    @property
    def pitch_hz(self) -> float:
        return float(self.hertz[0])


def make_body(rng: Rng, material: Material, size: float = 1.0) -> Body:
    """An object of `material`; twice the `size` sounds an octave lower and longer."""
    spread = 1 + rng.normal(0, 0.02, len(material.ratios)) * (np.arange(len(material.ratios)) > 0)
    hertz = material.base_hz / size * material.ratios * spread
    octaves = np.log2(hertz / hertz[0])
    decays = material.decay_seconds * size**0.5 * np.exp2(-material.damping * octaves)
    return Body(material, hertz, decays, rng.uniform(0.4, 1.0, len(hertz)))


def strike(rng: Rng, body: Body, strength: float = 1.0, seconds: float = 3.0) -> Samples:
    """One blow, mono, of amplitude near `strength` (0 to 1); a weaker one is also duller."""
    tilt = np.exp2(-np.log2(body.hertz / body.hertz[0]) * (1.1 - 0.8 * strength))
    amplitudes = body.amplitudes * tilt * rng.uniform(0.75, 1.25, len(tilt))
    sound = ring(body.hertz, body.decays, amplitudes / np.sum(amplitudes), samples_in(seconds))
    click = _click(rng, body.material.click_hz * (0.5 + 0.5 * strength))
    out = np.zeros(min(samples_in(seconds), max(len(sound), len(click))))
    add_at(out, (1 - body.material.click) * 1.6 * sound, 0.0)
    add_at(out, body.material.click * click, 0.0)
    return out * strength


def _click(rng: Rng, centre_hz: float) -> Samples:
    """The noise of a contact: it starts at once and is over in a few milliseconds."""
    count = samples_in(0.03)
    noise = coloured(rng, count, lambda at: band(at, centre_hz, 2.5))
    noise *= decay(count, 0.0015 + 2.5 / centre_hz)
    return np.asarray(noise / (np.abs(noise[: samples_in(0.005)]).max() + 1e-12))
