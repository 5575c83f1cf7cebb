"""The metrics of each mode, and the values of the LoRA and of everything that it is compared with.

In: the samples of a mode and the sounds of each contender. Out: `Row`s, one for each metric and contender, with the
margin of the LoRA and its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from figures import f_score, inside, mel_distance, onsets, seam_flux, seam_steps, seams_of
from made_data import Made
from paired import Difference, paired_difference
from sets import Space, nearer
from torch import Tensor

from sonolora.analysis.learned_space import LearnedSpace
from sonolora.analysis.likeness import description, distances, energy_distance, log_mel
from sonolora.media.audio import Waveform, peak, peak_normalized

LORA = "LoRA"
# By name, one or several sounds for each sample; the metric of several is their mean.
Contenders = Mapping[str, Sequence[Sequence[Waveform]]]


@dataclass(frozen=True)
class Figure:
    """A metric of a sound, given its sample."""

    name: str
    of: Callable[[Waveform, Made], float]
    higher_is_better: bool = False


@dataclass(frozen=True)
class Row:
    """`value`: mean of the contender. `margin`: the LoRA minus the contender, None for the LoRA."""

    figure: str
    contender: str
    value: float
    margin: Difference | None
    higher_is_better: bool = False

    @property
    def beaten(self) -> bool | None:
        """Whether the LoRA is better; None if the interval contains 0."""
        assert self.margin is not None
        if self.margin.low <= 0 <= self.margin.high:
            return None
        return (self.margin.low > 0) == self.higher_is_better


def _levels(sound: Waveform, made: Made) -> tuple[Tensor, Tensor]:
    """Log-mels (M, F) of the sound and the truth, inside the regenerated spans if there are any."""
    ours, theirs = (log_mel(one) for one in _levelled(sound, made))
    if made.regenerate is None:
        return ours, theirs
    regenerated = inside(len(theirs), made.regenerate)
    return ours[regenerated], theirs[regenerated]


def _levelled(sound: Waveform, made: Made) -> tuple[Waveform, Waveform]:
    """The sound and the truth at the peak level of training clips; with a kept part, both by the same gain."""
    true = peak_normalized(made.true)
    if made.regenerate is None:
        return peak_normalized(sound), true
    return replace(sound, samples=sound.samples * np.float32(peak(true) / peak(made.true))), true


def _mel(sound: Waveform, made: Made) -> float:
    return mel_distance(*_levels(sound, made))


def _statistics(sound: Waveform, made: Made) -> float:
    ours, theirs = map(description, _levels(sound, made))
    return (ours - theirs).abs().mean().item()


def _learned(sound: Waveform, made: Made) -> float:
    return (_vector(sound) - _vector(made.true)).norm().item()


@lru_cache(maxsize=300)  # by identity; the truth is compared with every contender
def _vector(sound: Waveform) -> Tensor:
    return LearnedSpace()([sound])[0]


def _at_seams(figure: Callable[[Waveform, Sequence[float]], Tensor], sound: Waveform, made: Made) -> float:
    seams = seams_of(made.regenerate or (), made.seconds)
    ours, theirs = (figure(one, seams) for one in _levelled(sound, made))
    return (ours - theirs).abs().mean().item()


def _onset_f_score(sound: Waveform, made: Made) -> float:
    return f_score(onsets(sound), made.events)


_LEARNED = Figure("distance to the truth in the learned space", _learned)
_OF_SPANS = (
    Figure("log-mel distance to the truth inside the spans, dB", _mel),
    Figure("distance to the truth's statistics inside the spans, dB", _statistics),
    _LEARNED,
    Figure("error of the level step at the seams, dB", partial(_at_seams, seam_steps)),
    Figure("error of the spectral flux at the seams, dB", partial(_at_seams, seam_flux)),
)
# The first metric of a mode is its main one. t2a compares whole sets: see `judge_sets`.
FIGURES: Mapping[str, Sequence[Figure]] = {
    "a2a": (
        Figure("log-mel distance to the true target, dB", _mel),
        Figure("distance to the true target's statistics, dB", _statistics),
        _LEARNED,
    ),
    "v2a": (
        Figure("F-score of the onsets", _onset_f_score, higher_is_better=True),
        Figure("log-mel distance to the true sound, dB", _mel),
        Figure("distance to the true sound's statistics, dB", _statistics),
        _LEARNED,
    ),
    "audio-inpaint": _OF_SPANS,
    "audio-extend-suffix": _OF_SPANS,
    "audio-extend-prefix": _OF_SPANS,
}


def space_figures(mode: str) -> Mapping[str, Figure]:
    """The main metric of a mode, and its distances to the truth in either space."""
    by_function = {figure.of: figure for figure in FIGURES[mode]}
    return {"main": FIGURES[mode][0], "log_mel": by_function[_mel], "learned": by_function[_learned]}


def judge(figures: Sequence[Figure], samples: Sequence[Made], contenders: Contenders) -> list[Row]:
    """Rows of per-sound metrics; margins are paired by sample."""
    rows = []
    for figure in figures:
        values = {name: _per_sample(figure, samples, sounds) for name, sounds in contenders.items()}
        for name, theirs in values.items():
            margin = None if name == LORA else paired_difference(theirs, values[LORA])
            rows.append(Row(figure.name, name, theirs.mean().item(), margin, figure.higher_is_better))
    return rows


def judge_sets(samples: Sequence[Made], contenders: Contenders, spaces: Sequence[Space]) -> list[Row]:
    """Rows of the energy distance between the sounds of each contender and the true ones, space after space."""
    rows = []
    for space in spaces:
        true = space([made.true for made in samples])
        sets = {name: space([sound for some in sounds for sound in some]) for name, sounds in contenders.items()}
        rows += [
            Row(
                f"energy distance to the held-out sounds, {space.name}",
                name,
                energy_distance(theirs, true),
                None if name == LORA else nearer(sets[LORA], theirs, true),
            )
            for name, theirs in sets.items()
        ]
    return rows


def _per_sample(figure: Figure, samples: Sequence[Made], sounds: Sequence[Sequence[Waveform]]) -> Tensor:
    """(samples, 1) means."""
    pairs = zip(sounds, samples, strict=True)
    means = [sum(figure.of(sound, made) for sound in some) / len(some) for some, made in pairs]
    return torch.tensor(means, dtype=torch.float64)[:, None]


@dataclass(frozen=True)
class Leak:
    """Sounds for captions of known kinds: mean distances to `other` and to the new kind.

    `margin` is the first minus the second: below 0 the sounds are nearer to what the captions say than to the new kind.
    """

    space: str
    whose: str
    other: str
    to_other: float
    to_new: float
    margin: Difference


def leaks(
    space: Space,
    unrelated: Sequence[Made],
    base: Sequence[Waveform],
    lora: Sequence[Waveform],
    samples: Sequence[Made],
) -> list[Leak]:
    """Leakage of base and LoRA; `samples` are of the new kind, `unrelated` has the true sounds of the captions."""
    true, new = (space([made.true for made in some]) for some in (unrelated, samples))
    before, after = space(base), space(lora)
    found = []
    for whose, sounds, other, compared in (
        ("base", before, "the true sound", true),
        (LORA, after, "the true sound", true),
        (LORA, after, "the base's sound", before),
    ):
        to_other = distances(sounds, compared).diagonal()[:, None]
        to_new = distances(sounds, new).mean(1, keepdim=True)
        margin = paired_difference(to_new, to_other)
        found.append(Leak(space.name, whose, other, to_other.mean().item(), to_new.mean().item(), margin))
    return found
