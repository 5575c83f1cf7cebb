"""The mel scale and its filter bank: Slaney's, from `transformers.audio_utils`, which is NumPy alone.

The audio codec, the measures of likeness and the spectrograms all take their filters here.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def mel_filters(
    bands: int,
    fft_size: int,
    sample_rate: int,
    low_hertz: float = 0.0,
    high_hertz: float | None = None,
    *,
    equal_area: bool = True,
) -> NDArray[np.float64]:
    """Triangles (bands, fft_size // 2 + 1) between `low_hertz` and `high_hertz` (default: half the sample rate).

    Each has area 1 over hertz, as the published codec wants it; without `equal_area` height 1, so that they add up
    to 1 at every frequency between the first and the last centre. A band that lies between two bins is empty.
    """
    from transformers.audio_utils import mel_filter_bank  # here: importing it takes most of a second

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
        filters: NDArray[np.float64] = mel_filter_bank(
            fft_size // 2 + 1,
            bands,
            low_hertz,
            sample_rate / 2 if high_hertz is None else high_hertz,
            sample_rate,
            norm="slaney" if equal_area else None,
            mel_scale="slaney",
        )
    return np.ascontiguousarray(filters.T)


def hertz_to_mel(hertz: float) -> float:
    """Linear up to 1 kHz (15 mel), then 27 mel for each factor of 6.4."""
    from transformers.audio_utils import hertz_to_mel as convert

    return float(convert(hertz, mel_scale="slaney"))
