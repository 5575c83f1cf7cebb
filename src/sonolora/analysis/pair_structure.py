"""What two sounds share in time and frequency, although one is a transformation of the other.

In: two waveforms. Out: `SharedStructure`, figures without a judgement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonolora.analysis.compare import fingerprint, similarities
from sonolora.media.audio import Waveform, resample

_SAMPLE_RATE = 16_000
_HOP, _WINDOW = 320, 1024  # samples: 20 and 64 ms
_BANDS, _LOWEST_HERTZ, _HIGHEST_HERTZ = 12, 100.0, 7000.0
_RANGE_DB = 50.0
_MAX_LAG = 50  # hops: a second
_STEADY_DB = 1.0  # a band whose level varies by less, root sum square, says nothing


@dataclass(frozen=True)
class SharedStructure:
    """Correlations up to 1: of the level over time at the best lag of up to a second, of the levels of bands over time,
    and of the signs of `compare.fingerprint`."""

    level: float
    bands: float
    fingerprint: float


def shared_structure(reference: Waveform, target: Waveform) -> SharedStructure:
    """Measure what two sounds share.

    At least one of the three stays high under filters, noise, reverberation, distortion, a change of pitch, ring
    modulation, a vocoder and tremolo; all three are low for most unrelated sounds.
    """
    first, second = (resample(one, _SAMPLE_RATE).samples.mean(axis=0) for one in (reference, target))
    prints = [fingerprint(one) for one in (reference, target)]
    return SharedStructure(
        _level_correlation(first, second), _band_correlation(first, second), float(similarities(prints)[0, 1])
    )


def _level_correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    def levels(samples: NDArray[np.float32]) -> NDArray[np.floating]:
        count = len(samples) // _HOP
        power = np.square(samples[: count * _HOP]).reshape(count, _HOP).mean(axis=1)
        decibels = _decibels(power)
        return decibels - decibels.mean()  # type: ignore[no-any-return]

    one, other = levels(first), levels(second)
    size = 1 << (len(one) + len(other)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(other, size) * np.fft.rfft(one, size).conj(), size)
    norm = np.sqrt((one @ one) * (other @ other))
    return float(max(correlation[:_MAX_LAG].max(), correlation[-_MAX_LAG:].max()) / max(norm, 1e-9))


def _band_correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    def levels(samples: NDArray[np.float32]) -> NDArray[np.floating]:
        padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
        windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
        power = np.square(np.abs(np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32))))
        edges = np.geomspace(_LOWEST_HERTZ, _HIGHEST_HERTZ, _BANDS + 1)
        starts = np.searchsorted(np.fft.rfftfreq(_WINDOW, 1 / _SAMPLE_RATE), edges[:-1])
        decibels = _decibels(np.add.reduceat(power, starts, axis=1))
        return decibels - decibels.mean(axis=0)  # type: ignore[no-any-return]

    one, other = levels(first), levels(second)
    count = min(len(one), len(other))
    one, other = one[:count], other[:count]
    norms = [np.sqrt(np.square(values).sum(axis=0)) for values in (one, other)]
    varies = (norms[0] > _STEADY_DB) & (norms[1] > _STEADY_DB)
    if not varies.any():
        return 0.0
    return float(((one * other).sum(axis=0)[varies] / (norms[0] * norms[1])[varies]).mean())


def _decibels(power: NDArray[np.floating]) -> NDArray[np.floating]:
    """Levels, none lower than `_RANGE_DB` below the highest."""
    decibels = 10 * np.log10(power + 1e-10)
    return np.maximum(decibels, decibels.max() - _RANGE_DB)  # type: ignore[no-any-return]
