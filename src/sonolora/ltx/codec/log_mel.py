"""The log-mel spectrogram that the audio codec encodes.

In: waveforms at the codec's sample rate. Out: natural logarithms of mel magnitudes.
B batch, C channels, N samples, M mel frames, F mel bands. Source: the published preprocessing settings (Hann
window, centred frames with reflected edges, magnitude, Slaney mel scale and area normalisation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 1e-5
# Slaney's mel scale: linear up to 1 kHz (15 mel), then 27 mel for each factor 6.4.
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = math.log(6.4) / 27.0


def mel_filterbank(bands: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles of equal area in Hz, (bands, n_fft // 2 + 1), float32, computed in float64."""
    edges_mel = torch.linspace(_to_mel(low_hz), _to_mel(high_hz), bands + 2, dtype=torch.float64)
    edges = torch.where(
        edges_mel < _BREAK_MEL,
        edges_mel * _HZ_PER_MEL,
        _BREAK_HZ * torch.exp((edges_mel - _BREAK_MEL) * _LOG_STEP),
    )
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (upper - lower)).float()


def _to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return _BREAK_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


@dataclass(frozen=True)
class LogMel:
    """The transform: window length in samples, hop in samples, and the filters (F, bins)."""

    window: int
    hop: int
    filters: Tensor

    def __call__(self, waveform_BCN: Tensor) -> Tensor:
        """Log-mel magnitudes (B, C, M, F), M = N // hop + 1. N must exceed half the window."""
        samples = waveform_BCN.shape[-1]
        spectrum = torch.stft(
            waveform_BCN.reshape(-1, samples),
            n_fft=self.window,
            hop_length=self.hop,
            window=torch.hann_window(self.window, device=waveform_BCN.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        mel = self.filters @ spectrum.abs()  # (B * C, F, M)
        log_mel = mel.clamp(min=_FLOOR).log().transpose(1, 2)
        return log_mel.reshape(*waveform_BCN.shape[:2], *log_mel.shape[1:])
