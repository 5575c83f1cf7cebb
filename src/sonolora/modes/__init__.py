"""The modes by their wire names."""

from __future__ import annotations

from collections.abc import Mapping

from sonolora.core.errors import InputError
from sonolora.modes.a2a import A2A
from sonolora.modes.audio_extend import AUDIO_EXTEND_PREFIX, AUDIO_EXTEND_SUFFIX
from sonolora.modes.audio_inpaint import AUDIO_INPAINT
from sonolora.modes.mode import Mode
from sonolora.modes.t2a import T2A
from sonolora.modes.v2a import V2A

MODES: Mapping[str, Mode] = {
    mode.name: mode for mode in (T2A, A2A, V2A, AUDIO_INPAINT, AUDIO_EXTEND_SUFFIX, AUDIO_EXTEND_PREFIX)
}


def find_mode(name: str) -> Mode:
    """The mode of a wire name. Raises `InputError` that lists them."""
    if name not in MODES:
        raise InputError.of("mode", f"{name!r} is not a mode; there are: {', '.join(MODES)}")
    return MODES[name]
