"""A LoRA as an option names it: `FILE` or `FILE:STRENGTH`, such as `voice.safetensors:0.8`."""

from __future__ import annotations

import math
from pathlib import Path

from sonolora.core.errors import InputError

MAX_STRENGTH = 10.0  # of either sign; beyond it a slip of the finger, such as 80 for 0.8


def parse_lora(text: str, field: str = "lora", default: float = 1.0) -> tuple[str, float]:
    """The file or URL, and the strength. A file whose whole name is the text has the default one.

    Raises `InputError` for a strength that is not finite or beyond `MAX_STRENGTH`.
    """
    file, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, default
    try:
        strength = float(number)
    except ValueError:  # a drive or a scheme
        return text, default
    if not math.isfinite(strength):
        raise InputError.of(field, f"the strength of {file} must be a finite number, not {number}")
    if abs(strength) > MAX_STRENGTH:
        raise InputError.of(
            field, f"the strength of {file} must be from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, not {number}"
        )
    return file, strength


def absolute_lora(text: str, field: str) -> str:
    """The same with a file's absolute path. Raises `InputError` for a file that does not exist."""
    file, strength = parse_lora(text, field)
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError.of(field, f"there is no file {file}")
    return f"{path.absolute()}:{strength:g}"
