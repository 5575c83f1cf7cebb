"""A limit of vocoders of the published form: they cannot hold a tone that is not a multiple of 100 Hz.

    python tools/tiny/steady_tones.py [--base DIR] [--tones 12]

From a constant log-mel a convolutional vocoder generates, further from the ends than its receptive field, a sound with
the period of a mel frame, 10 ms: a sum of partials at multiples of 100 Hz. For tones of random pitch this searches the
levels of these partials with the smallest log spectral distance to the tone, and again for a period of 20 ms. Out: a
table with the best distances, those of Griffin-Lim and of the vocoder of a base from the true log-mels, and that of
silence; means over tones, in dB.
"""

from __future__ import annotations

import argparse
import math

import torch
from distances import log_spectral_distance
from griffin_lim import griffin_lim
from torch import Tensor

from sonolora.core.randomness import generator
from sonolora.ltx.codec.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.weights.base import find_base

RATE = 16_000
SECONDS = 2.0
EDGE = 1600  # samples at either end that are not compared: Griffin-Lim is inaccurate there
LOWEST, OCTAVES = 100.0, 5.3  # Hz; range of the tones
LOUDEST = 0.3
PERIODS = (0.01, 0.02)  # seconds
_WINDOW, _HOP = 640, 160  # as in distances.py: the bounds hold for the metric that is reported
_FLOOR = 1e-10  # of a power
_STEPS, _STEP = 300, 0.1
_STARTS = 2


def tones(count: int, harmonics: int) -> Tensor:
    """Steady tones (count, N) at pitches that are not multiples of 50 Hz, with harmonics of amplitude 1 / n."""
    rng = generator("steady tones")
    pitches = LOWEST * 2 ** (OCTAVES * torch.rand(8 * count, generator=rng, dtype=torch.float64))
    between = (pitches / 50 % 1 - 0.5).abs() < 0.4
    pitches = pitches[between & (pitches * harmonics < RATE / 2)][:count]
    times = torch.arange(round(SECONDS * RATE), dtype=torch.float64) / RATE
    numbers = torch.arange(1, harmonics + 1)
    waves = torch.sin(2 * math.pi * pitches[:, None, None] * numbers[:, None] * times + numbers[:, None])
    return (LOUDEST * waves / numbers[:, None]).sum(1).float()


def nearest_periodic(true_KN: Tensor, period: float) -> Tensor:
    """The nearest periodic sounds to K given ones, by gradient descent from several starts; `period` in seconds."""
    rng = generator("nearest periodic")
    lines = torch.arange(1, round(RATE / 2 * period)) / period
    angles = 2 * math.pi * lines[:, None] * torch.arange(true_KN.shape[1]) / RATE
    cosines, sines = angles.cos(), angles.sin()
    levels = _levels(true_KN)
    nearest, least = torch.zeros_like(true_KN), torch.full((len(true_KN),), torch.inf)
    for _ in range(_STARTS):
        sizes = (-9 * torch.rand(len(true_KN), len(lines), generator=rng)).requires_grad_()  # logarithms
        turns = (2 * math.pi * torch.rand(sizes.shape, generator=rng)).requires_grad_()
        optimizer = torch.optim.Adam([sizes, turns], lr=_STEP)
        for _ in range(_STEPS):
            made = (sizes.exp() * turns.cos()) @ cosines + (sizes.exp() * turns.sin()) @ sines
            distances = (_levels(made) - levels).square().mean(1).sqrt().mean(1)
            optimizer.zero_grad()
            distances.sum().backward()
            optimizer.step()
        better = distances.detach() < least
        nearest[better], least[better] = made.detach()[better], distances.detach()[better]
    return nearest


@torch.no_grad()
def from_mels(codec: AudioCodec, true_KN: Tensor) -> tuple[Tensor, Tensor]:
    """Griffin-Lim and the vocoder on the true log-mels of K sounds at 16 kHz, (K, N' <= N) each."""
    mels = codec.log_mel(true_KN[:, None].expand(-1, 2, -1))
    return griffin_lim(codec.log_mel, mels)[:, 0], codec.vocoder.vocoder(mels[:, :, :-1])[:, 0]


def distance(made_KN: Tensor, true_KN: Tensor) -> float:
    """dB: log spectral distance over the common length, mean over K sounds."""
    length = min(made_KN.shape[1], true_KN.shape[1])
    return log_spectral_distance(made_KN[:, :length], true_KN[:, :length], RATE)


def _levels(sounds_KN: Tensor) -> Tensor:
    """dB, (K, bins, frames), differentiable everywhere."""
    window = torch.hann_window(_WINDOW)
    spectra = torch.stft(sounds_KN, _WINDOW, _HOP, window=window, return_complex=True) * (2 / window.sum())
    return 10 * (spectra.real.square() + spectra.imag.square() + _FLOOR).log10()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny", help="tiny, or the folder of another base")
    parser.add_argument("--tones", type=int, default=12, help="how many of each sort")
    args = parser.parse_args()
    codec = load_audio_codec(find_base(args.base).checkpoint, device=torch.device("cpu"))
    print("| harmonics | Griffin-Lim | vocoder | period of 10 ms, at best | of 20 ms, at best | silence |")
    print("|---|---:|---:|---:|---:|---:|")
    for harmonics in (1, 6):
        true = tones(args.tones, harmonics)
        inner = true[:, EDGE:-EDGE]
        made = [each[:, EDGE:-EDGE] for each in from_mels(codec, true)]
        made += [nearest_periodic(inner, period) for period in PERIODS] + [torch.zeros_like(inner)]
        print(f"| {harmonics} | " + " | ".join(f"{distance(each, inner):.1f}" for each in made) + " |")


if __name__ == "__main__":
    main()
