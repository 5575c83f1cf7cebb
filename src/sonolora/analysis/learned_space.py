"""A learned space of sounds: the embedding of aiSFX, which was trained to tell the categories of sound effects apart.

In: waveforms. Out: vectors (N, 512). The network has eight convolutions of 3 x 3 with batch
normalisation (folded into them) and ReLU, pooled by two after the second, fourth and sixth, then the mean
over mel bands and the maximum over time. Weights: `aisfx/`, CC BY 4.0, converted by `tools/judges/convert_aisfx.py`,
which also says how near this front end and these layers are to the original's.

Sounds are analysed with the 8 kHz of bandwidth that a latent holds, as log-mels are: else the codec's missing treble
would be most of the distance between real and generated sounds.

Source: A. B. Ma and A. Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR
2022.

N sounds, L blocks, M frames of 23 ms, F mel bands, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.analysis.likeness import SAMPLE_RATE as BANDWIDTH_RATE
from sonolora.core.checked_tensors import load_checked
from sonolora.media.audio import Waveform, peak_normalized, resample

WEIGHTS = Path(__file__).parent / "aisfx" / "aisfx.safetensors"
SAMPLE_RATE = 44_100
BLOCK_FRAMES = 100  # 2.3 s, what it was trained on
MAX_BLOCKS = 8  # of a long sound, spread over it
LAYERS = 8
_LAYOUT = {1: torch.contiguous_format, 4: torch.channels_last}  # the faster one on CPUs
_WINDOW, _HOP, _BANDS = 2048, 1024, 96
_SCALE, _LOUDEST = 1e4, 9.457798957824707  # of the logarithm; its largest value in the training data
_POOLED = (1, 3, 5)  # layers


class LearnedSpace:
    """The embedding; distances in it are Euclidean."""

    name = "aisfx"
    title = "in the learned space of aiSFX"

    @torch.inference_mode()
    def __call__(self, sounds: Sequence[Waveform]) -> Tensor:
        """(N, D) float64, of sounds normalised to one peak. A long sound is the mean of its blocks."""
        tensors = _weights()
        rows = [embed(tensors, blocks(log_mel(_mono(sound)))).mean(0) for sound in sounds]
        return torch.stack(rows).double()


@cache
def _weights() -> Mapping[str, Tensor]:
    tensors, _ = load_checked(WEIGHTS)
    return {name: tensor.float().contiguous(memory_format=_LAYOUT[tensor.dim()]) for name, tensor in tensors.items()}


def _mono(sound: Waveform) -> Tensor:
    limited = resample(resample(peak_normalized(sound), BANDWIDTH_RATE), SAMPLE_RATE)
    return torch.from_numpy(limited.samples).mean(0)


def log_mel(samples: Tensor) -> Tensor:
    """(M, F) from samples at 44.1 kHz; frame m is centred at m hops. Silence is 0, the loudest training data was 1."""
    frames = -(-len(samples) // _HOP) + 1
    padded = F.pad(samples, (_WINDOW // 2, _WINDOW // 2 + _HOP))[: (frames - 1) * _HOP + _WINDOW]
    window = torch.hann_window(_WINDOW, periodic=False, dtype=samples.dtype)
    power = torch.fft.rfft(padded.unfold(0, _WINDOW, _HOP) * window).abs().square()
    levels: Tensor = (1 + _SCALE * power @ _filters().to(samples.dtype).T).log10() / _LOUDEST
    return levels


@cache
def _filters() -> Tensor:
    """Triangles (F, bins) over the mel scale of HTK, 0 to 22.05 kHz, each of sum 1."""
    hertz = np.arange(_WINDOW // 2 + 1) * SAMPLE_RATE / _WINDOW
    mels = np.log1p(hertz / 700)
    edges = np.linspace(0, mels[-1], _BANDS + 2)[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    triangles = np.minimum(rising, falling).clip(min=0)
    return torch.from_numpy(triangles / triangles.sum(1, keepdims=True))


def blocks(levels_MF: Tensor) -> Tensor:
    """(L, 100, F): whole blocks one after the other, at most `MAX_BLOCKS`; a shorter sound is followed by silence."""
    count = max(1, len(levels_MF) // BLOCK_FRAMES)
    padded = F.pad(levels_MF, (0, 0, 0, max(0, BLOCK_FRAMES - len(levels_MF))))
    whole = padded[: count * BLOCK_FRAMES].reshape(count, BLOCK_FRAMES, -1)
    chosen = torch.linspace(0, count - 1, min(count, MAX_BLOCKS)).round().long()
    return whole[chosen]


def embed(tensors: Mapping[str, Tensor], blocks_LMF: Tensor) -> Tensor:
    """(L, D) of blocks."""
    x = blocks_LMF[:, None].to(tensors["0.weight"].dtype)
    for layer in range(LAYERS):
        x = F.conv2d(x, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"], padding=1).relu_()
        if layer in _POOLED:
            x = F.max_pool2d(x, 2)
    return x.mean(3).amax(2)
