"""What a mode is: data and rules, with no knowledge of how training or sampling works.

A mode says which requests it takes, how the files of an archive make samples, which part of a sound is regenerated, and
which layers its LoRA changes. The rules work on names and seconds alone. Reading files is the task of `data`, and
neither the training step nor the sampler knows about modes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sonolora.core.frames import Span
from sonolora.modes.generate_request import GenerateRequest
from sonolora.modes.preview_spec import PreviewSpec
from sonolora.modes.request import TrainRequest


@dataclass(frozen=True)
class SampleFiles:
    """The files of one training sample by role; names are relative to the root of the archive."""

    name: str
    target: str  # the sound to learn; in v2a the video with that sound
    caption: str | None = None
    reference: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Pairing:
    """What a mode's rule makes of an archive: samples, why each other file is skipped, and tables of captions."""

    samples: tuple[SampleFiles, ...]
    skipped: Mapping[str, str]
    caption_tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mode:
    """One of the six modes; `name` is its name on the wire."""

    name: str
    summary: str
    request: type[TrainRequest]
    lora_targets: tuple[str, ...]
    pair: Callable[[Sequence[str]], Pairing]
    # What training regenerates of every clip: spans of seconds, or None for all. A mask file overrides it.
    regenerated: Callable[[Any], tuple[Span, ...] | None]
    previews: Callable[[Any], list[PreviewSpec]]
    generation: type[GenerateRequest]
    # The conditioning besides text.
    video: bool = False
    reference: bool = False
    kept: bool = False  # parts of the target
    trim_beginning: bool = False  # of a clip that is too long, train the end
    sigma_density: str = "published"  # the noise density; another one only where it measured better


def regenerates_all(request: TrainRequest) -> None:  # noqa: ARG001 - the signature of `Mode.regenerated`
    """Nothing of the target is kept."""
    return
