"""Spaces in which sets of sounds are compared: log-mel statistics, a learned one, and those of installed packages.

In: sounds. Out: one vector for each, whose Euclidean distances mean something. A package adds a space (of pitch, of
speakers) by an entry point of the group `sonolora.embeddings` that names a callable without arguments:

    [project.entry-points."sonolora.embeddings"]
    pitch = "my_package:PitchEmbedding"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from torch import Tensor

from sonolora.analysis.learned_space import LearnedSpace
from sonolora.analysis.likeness import descriptions
from sonolora.media.audio import Waveform

ENTRY_POINTS = "sonolora.embeddings"


class Embedding(Protocol):
    """A space of sounds. `name`: its key in JSON; `title`: how sounds are compared, as in "nearer `by timbre`"."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    def __call__(self, sounds: Sequence[Waveform]) -> Tensor:
        """(N, D) float64."""


class LogMelSpace:
    """Statistics of log-mels, in dB: `likeness.descriptions`."""

    name = "log_mel"
    title = "by timbre and rhythm"

    def __call__(self, sounds: Sequence[Waveform]) -> Tensor:
        """(N, D) float64."""
        return descriptions(sounds)


def embeddings(warn: Callable[[str], None]) -> Iterator[Embedding]:
    """All spaces; one that does not load is skipped with a warning."""
    yield LogMelSpace()
    yield LearnedSpace()
    for point in entry_points(group=ENTRY_POINTS):
        try:
            yield point.load()()
        except Exception as error:  # of a package that is not ours
            warn(f"the embedding {point.name} ({point.value}) does not load: {error}")
