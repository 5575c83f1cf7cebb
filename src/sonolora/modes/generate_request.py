"""What `generate` may be asked for: the fields that all modes share. Modes add what the sound is conditioned on."""

from __future__ import annotations

from pydantic import Field

from sonolora.modes.preview_spec import MIN_SECONDS, PreviewSpec
from sonolora.modes.request import NEGATIVE_PROMPT, Body


class GenerateRequest(Body):
    """A sound from words. Fields that are not given follow the LoRA's metadata, then these defaults."""

    prompt: str = Field(description="What to hear, trigger phrase included.")
    negative_prompt: str = Field(NEGATIVE_PROMPT, description="What to steer away from.")
    seconds: float = Field(
        5.0, ge=MIN_SECONDS, le=60, description="Length of the result; with a LoRA that of its clips."
    )

    def spec(self) -> PreviewSpec:
        """The same in the form that previews have."""
        return PreviewSpec(self.prompt, self.negative_prompt, self.seconds)
