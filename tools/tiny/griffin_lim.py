"""Waveforms from log-mels without training: the baseline for the vocoder.

In: log-mels (B, C, M, F) of `sonolora.ltx.codec.log_mel`. Out: waveforms (B, C, (M - 1) hop). Magnitudes
minimise the Kullback-Leibler divergence to the mels (multiplicative updates: Lee and Seung 2001); phases come from the
fast Griffin-Lim algorithm (Perraudin, Balazs and Sondergaard 2013).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sonolora.core.randomness import generator
from sonolora.ltx.codec.log_mel import LogMel

_MOMENTUM = 0.99


def griffin_lim(log_mel: LogMel, mel_BCMF: Tensor, iterations: int = 64) -> Tensor:
    """Waveforms of log-mels; the initial phases are random with a fixed seed."""
    magnitudes = unmel(mel_BCMF.flatten(0, 1).exp().transpose(1, 2), log_mel.filters)
    window = torch.hann_window(log_mel.window, device=magnitudes.device)

    def heard(phases: Tensor) -> Tensor:
        return torch.istft(magnitudes * phases, log_mel.window, log_mel.hop, window=window)

    turns = torch.rand(magnitudes.shape, generator=generator("griffin-lim")).to(magnitudes.device)
    phases = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    before = torch.zeros_like(phases)
    for _ in range(iterations):
        spectrum = torch.stft(heard(phases), log_mel.window, log_mel.hop, window=window, return_complex=True)
        phases = spectrum + _MOMENTUM * (spectrum - before)
        phases = phases / phases.abs().clamp(min=1e-12)
        before = spectrum
    return heard(phases).reshape(*mel_BCMF.shape[:2], -1)


def unmel(mel_BFM: Tensor, filters: Tensor, iterations: int = 60) -> Tensor:
    """Non-negative magnitudes (B, bins, M) whose mels approximate the given ones."""
    magnitudes = torch.ones(len(mel_BFM), filters.shape[1], mel_BFM.shape[2], device=mel_BFM.device)
    weights = filters.sum(0).clamp(min=1e-12)[:, None]
    for _ in range(iterations):
        ratio = mel_BFM / (filters @ magnitudes).clamp(min=1e-12)
        magnitudes = magnitudes * (filters.T @ ratio) / weights
    return magnitudes
