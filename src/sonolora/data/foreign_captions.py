"""Captions of everyday sounds, for steps that keep the base as it is (`--preserve`).

They cover what people ask of a sound model, so that what is kept is kept broadly. The empty caption stands for
sampling without a prompt.
"""

from __future__ import annotations

FOREIGN_CAPTIONS = (
    "",
    "a woman speaks calmly",
    "a man shouts in the street",
    "a crowd applauds and cheers",
    "a piano plays a slow melody",
    "an electric guitar plays chords",
    "a drum kit plays a steady beat",
    "steady rain on a window",
    "wind blows through trees",
    "waves break on a beach",
    "a dog barks",
    "birds sing in the morning",
    "a car engine starts and idles",
    "a door creaks open and slams shut",
    "footsteps on a wooden floor",
    "a glass falls and breaks",
    "a phone rings",
    "an explosion in the distance",
    "a machine hums in a factory",
    "silence in a quiet room",
)
