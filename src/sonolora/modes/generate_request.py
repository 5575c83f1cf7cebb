"""What `generate` accepts: the fields that all modes share, and what a request becomes. Modes add the conditioning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sonolora.core.frames import Span
from sonolora.modes.preview_spec import MIN_SECONDS
from sonolora.modes.request import NEGATIVE_PROMPT, Body

MAX_SECONDS = 60.0  # of sound from words alone
MAX_LONG_SECONDS = 300.0  # of sound for a reference or a video: all its latents are decoded at once


@dataclass(frozen=True)
class GenerationSpec:
    """What to generate, whatever the mode. At most one of `source`, `reference` and `video` is set: URLs or paths.

    The length of what is given decides the length of the result. `seconds` limits how much of it is used; without any
    of the three it is the length of the result, and in an extension the length of the source with the new part.
    """

    prompt: str
    negative_prompt: str
    seconds: float | None = None
    source: str | None = None  # the sound that is kept, but for the regenerated spans
    reference: str | None = None  # the sound to transform
    video: str | None = None
    frame_rate: float = 0.0  # frames a second of the video that the model is given
    frame_size: tuple[int, int] = (0, 0)  # their width and height in pixels
    regenerate: tuple[Span, ...] = ()  # seconds of the source
    extend: Literal["before", "after"] | None = None  # the source
    extend_seconds: float | None = None  # of new sound; None: as in training
    context_seconds: float | None = None  # of the source beside the new sound, that the model is given
    normalize: bool = True  # bring what is given to the level of normalised training clips
    field: str = ""  # the request field of the address, for errors


class GenerateRequest(Body):
    """A sound from words. Fields that are missing follow the LoRA's metadata, then these defaults."""

    prompt: str = Field(description="What to generate, trigger phrase included.")
    negative_prompt: str = Field(
        NEGATIVE_PROMPT,
        description='What to steer away from; "published" is the negative prompt of LTX-2.3\'s publisher.',
    )
    seconds: float | None = Field(
        None,
        ge=MIN_SECONDS,
        le=MAX_SECONDS,
        description="Length of the result; by default that of the LoRA's training clips, without a LoRA 5.",
    )

    def spec(self) -> GenerationSpec:
        """The same for all modes."""
        return GenerationSpec(self.prompt, self.negative_prompt, self.seconds)
