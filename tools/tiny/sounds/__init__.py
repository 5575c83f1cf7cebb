"""The kinds of sound of the corpus, by name: those for training and the held-out ones."""

from __future__ import annotations

from sounds import held_out, machines, rhythm, silence, steps, strings, struck, tones, voice, weather
from sounds.kind import Kind

_TRAINED = (tones, strings, struck, steps, rhythm, weather, machines, voice, silence)

KINDS: dict[str, Kind] = {kind.name: kind for module in _TRAINED for kind in module.KINDS}
HELD_OUT_KINDS: dict[str, Kind] = {kind.name: kind for kind in held_out.KINDS}
