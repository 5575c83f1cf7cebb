"""Distances between sets of sounds, without pairing.

In: sets of sounds. Out: vectors in spaces scaled by sounds of known kinds, and differences of energy distances with
intervals.

N, K sounds of a set, D dimensions of a description, W resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from made_data import known_sounds
from paired import CONFIDENCE, RESAMPLES, Difference
from torch import Tensor

from sonolora.analysis.embeddings import Embedding, LogMelSpace
from sonolora.analysis.learned_space import LearnedSpace
from sonolora.analysis.likeness import energy_distance, weighted_energy
from sonolora.core.randomness import generator
from sonolora.media.audio import Waveform

_CORPUS_SEED, _CORPUS_SOUNDS = 1_000, 100
_LEAST_SPREAD_DB = 0.5


@dataclass(frozen=True)
class Space:
    """An embedding, scaled by a corpus: a distance of 1 is one standard deviation in each dimension."""

    name: str
    embedding: Embedding
    mean_D: Tensor
    spread_D: Tensor

    def __call__(self, sounds: Sequence[Waveform]) -> Tensor:
        """(N, D) of peak-normalised sounds: the level of a set says little about its content."""
        standard = (self.embedding(sounds) - self.mean_D) / self.spread_D
        return standard / len(self.mean_D) ** 0.5


def log_mel_space(seconds: float) -> Space:
    """Log-mel statistics, each dimension standardised."""
    embedding = LogMelSpace()
    rows = embedding(_corpus(seconds))
    return Space("log-mel", embedding, rows.mean(0), rows.std(0).clamp(min=_LEAST_SPREAD_DB))


def learned_space(seconds: float) -> Space:
    """The embedding of aiSFX. All dimensions keep their proportions, which distances in it depend on."""
    embedding = LearnedSpace()
    rows = embedding(_corpus(seconds))
    return Space("learned", embedding, rows.mean(0), rows.std(0).square().mean().sqrt().expand(rows.shape[1]))


def both_spaces(seconds: float) -> tuple[Space, Space]:
    """For sounds of this length. The first is that of the main metric."""
    return log_mel_space(seconds), learned_space(seconds)


def _corpus(seconds: float) -> list[Waveform]:
    """100 synthetic sounds of the kinds that the base knows."""
    return [made.true for made in known_sounds(_CORPUS_SEED, _CORPUS_SOUNDS, seconds)]


def nearer(one_ND: Tensor, other_KD: Tensor, true_ND: Tensor) -> Difference:
    """The energy distance of `one` to the true set minus that of `other`; negative if `one` is nearer.

    The interval is a percentile bootstrap over items: each true sound is drawn together with its sound in `one`, and in
    `other` if that has the same size. A set of another size is resampled independently.
    """
    count = len(true_ND)
    draws_WN = torch.randint(count, (RESAMPLES, count), generator=generator(0, "set bootstrap"))
    draws_WK = draws_WN
    if len(other_KD) != count:
        draws_WK = torch.randint(len(other_KD), (RESAMPLES, len(other_KD)), generator=generator(0, "other bootstrap"))
    weights_WN, weights_WK = _shares(draws_WN, count), _shares(draws_WK, len(other_KD))
    found_W = weighted_energy(one_ND, true_ND, weights_WN, weights_WN) - weighted_energy(
        other_KD, true_ND, weights_WK, weights_WN
    )
    low, high = found_W.quantile(torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).to(found_W)).tolist()
    return Difference(energy_distance(one_ND, true_ND) - energy_distance(other_KD, true_ND), low, high)


def _shares(draws_WN: Tensor, count: int) -> Tensor:
    """The share of each item in the draws, (W, N) float64."""
    counts = torch.zeros(len(draws_WN), count, dtype=torch.float64)
    return counts.scatter_add_(1, draws_WN, torch.ones_like(draws_WN, dtype=torch.float64)) / draws_WN.shape[1]
