"""Computed sounds for the checks: noise, tones, syllables, and what processing makes of them."""

from __future__ import annotations

import numpy as np

from sonolora.media.audio import Waveform, resample

RATE = 48_000
SECONDS = 3


def sound(*channels: np.ndarray, rate: int = RATE) -> Waveform:
    """As a file of 16 bits would hold it."""
    pcm = np.clip(np.rint(np.array(channels) * 32768), -32768, 32767)
    return Waveform((pcm / 32768).astype(np.float32), rate)


def noise(seed: int = 0, rms: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, rms, SECONDS * RATE)


def tone(hertz: float = 440, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(SECONDS * RATE) / RATE)


def speech(seed: int = 0) -> np.ndarray:
    """Bursts of noise, voiced and hissed, with pauses: syllables of a quarter of a second."""
    rng = np.random.default_rng(seed)
    syllable = np.hanning(RATE // 5)
    samples = np.zeros(SECONDS * RATE)
    for at in range(RATE // 20, SECONDS * RATE - RATE // 5, RATE // 4):
        if rng.random() < 0.8:
            samples[at : at + len(syllable)] += rng.uniform(0.2, 1) * syllable
    return samples * (0.5 * dark(noise(seed)) + 0.1 * noise(seed + 1))


def dark(samples: np.ndarray, hertz: float = 800) -> np.ndarray:
    """Through a gentle low-pass of 12 dB from one octave to the next."""
    spectrum = np.fft.rfft(samples)
    spectrum /= 1 + (np.fft.rfftfreq(len(samples), 1 / RATE) / hertz) ** 2
    return np.fft.irfft(spectrum, len(samples))


def late(samples: np.ndarray, seconds: float) -> np.ndarray:
    return np.pad(samples, (round(seconds * RATE), 0))[: len(samples)]


def upsampled(samples: np.ndarray, rate: int) -> Waveform:
    return resample(resample(sound(samples, samples), rate), RATE)


def wide(seed: int, gain: float = 1.0) -> Waveform:
    return sound(gain * noise(seed), gain * noise(seed + 100))
