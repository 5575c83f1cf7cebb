"""The description of a preview or of a result of `generate`, in all modes."""

from __future__ import annotations

from dataclasses import dataclass

from sonolora.core.frames import Span

MIN_SECONDS = 0.1  # of every input and result: the codec's window must fit


@dataclass(frozen=True)
class VideoFormat:
    """The format that a video is converted to: frames (8 k + 1), frames per second, and pixels (multiples of 32)."""

    frames: int
    frame_rate: float
    width: int
    height: int


@dataclass(frozen=True)
class PreviewSpec:
    """What to generate, and from what. The addresses are URLs or paths."""

    prompt: str
    negative_prompt: str
    seconds: float
    source: str | None = None  # a sound of which a part is kept
    reference: str | None = None  # a sound to transform
    video: str | None = None  # a video to make a sound for
    video_format: VideoFormat | None = None  # what the video is converted to
    regenerate: tuple[Span, ...] | None = None  # seconds of the result to generate; None: all of it
    given_seconds: float | None = None  # seconds of the source to use; None: as many as fit
    source_at_end: bool = False  # the source's end is aligned with the result's, instead of the beginnings
    normalize: bool = True  # bring the inputs to the level of normalised training clips
    field: str = ""  # the request field with the address, for errors

    @property
    def address(self) -> str | None:
        """The URL or path of its input, if it has one."""
        return self.source or self.reference or self.video
