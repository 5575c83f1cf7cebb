"""The log-mel spectrogram that the audio codec encodes.

In: waveforms at the codec's sample rate. Out: natural logarithms of mel magnitudes.
B batch, C channels, N samples, M mel frames, F mel bands. Source: the published preprocessing settings (Hann
window, centred frames with reflected edges, magnitude, Slaney mel scale and area normalisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 1e-5


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
