"""Modal synthesis: a struck body as a sum of decaying sines, computed as one matrix product.

A mode is z^n with a complex pole z, and z^(Bk + j) = z^(Bk) z^j: all samples of all modes are the product of a
matrix over blocks k and one over places j in a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sounds.kind import RATE, Samples
from sounds.waves import HIGHEST_HZ

_BLOCK = 512
_INAUDIBLE = 7.0  # time constants: -61 dB


def ring(hertz: ArrayLike, decays: ArrayLike, amplitudes: ArrayLike, count: int) -> Samples:
    """(at most `count`,) samples of modes of `hertz`, time constants `decays` in seconds and `amplitudes`.

    The sound begins at zero and is cut where it can no longer be heard.
    """
    frequency, tau, amplitude = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in (hertz, decays, amplitudes))
    )
    heard = frequency < HIGHEST_HZ
    frequency, tau, amplitude = frequency[heard], tau[heard], amplitude[heard]
    if not len(frequency):
        return np.zeros(count)
    count = min(count, int(_INAUDIBLE * tau.max() * RATE) + 1)
    log_pole = (-1 / tau + 2j * np.pi * frequency) / RATE
    blocks = np.exp(np.outer(np.arange(0, count, _BLOCK), log_pole))
    places = amplitude[:, None] * np.exp(np.outer(log_pole, np.arange(_BLOCK)))
    # The imaginary part of the complex product, so that every mode starts as a sine.
    imaginary: Samples = np.hstack([blocks.real, blocks.imag]) @ np.vstack([places.imag, places.real])
    return imaginary.ravel()[:count]
