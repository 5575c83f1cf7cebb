"""Negative prompts that can be asked for by name.

The default of requests (`sonolora.modes.request.NEGATIVE_PROMPT`) lists faults of sound. The publisher of LTX-2.3 has
one text for picture and sound, most of it about pictures; it is offered as "published".
"""

from __future__ import annotations

PUBLISHED = "published"


def resolve_negative_prompt(text: str) -> str:
    """The publisher's negative prompt for "published", any other text as it is."""
    if text != PUBLISHED:
        return text
    from diffusers.pipelines.ltx2.utils import DEFAULT_NEGATIVE_PROMPT  # takes seconds to import

    return str(DEFAULT_NEGATIVE_PROMPT)
