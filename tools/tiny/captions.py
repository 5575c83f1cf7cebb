"""Captions that the tokenizer of the embedded base is trained on: what, how and where, and the templates of the corpus.

Out: some thousand sentences, deterministic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from scenes import KINDS as FILM_KINDS
from sounds import KINDS

_SOUNDS = (
    "a dog barks", "a cat meows", "a rooster crows", "a horse gallops", "a bee buzzes", "an owl hoots",
    "crickets chirp", "birds sing", "frogs croak", "a wolf howls", "cows moo", "a whale calls",
    "rain falls on leaves", "thunder rolls", "wind blows", "waves crash on rocks", "a stream flows",
    "fire crackles", "ice cracks", "snow crunches underfoot", "water drips", "bubbles rise",
    "a car passes", "a train whistles", "an engine idles", "a motorcycle accelerates", "a siren wails",
    "a helicopter hovers", "an aeroplane takes off", "a bicycle bell rings", "brakes squeal",
    "a door slams", "a clock ticks", "a kettle boils", "glass shatters", "keys jingle", "paper rustles",
    "footsteps approach", "a chair creaks", "a switch clicks", "a phone rings", "a vacuum cleaner hums",
    "a sine tone beeps", "white noise hisses", "a low drone swells", "a laser zaps", "a robot whirrs",
    "a drum is struck", "a cymbal crashes", "a bass line plays", "a guitar is strummed", "a piano chord rings out",
    "a violin plays a slow melody", "a flute trills", "a synthesizer sweeps", "a bell tolls", "a choir sings",
    "a man speaks", "a woman laughs", "a child shouts", "a crowd cheers", "people applaud", "someone whispers",
    "a baby cries", "a person sneezes", "someone walks up the stairs", "a voice counts to ten",
)  # fmt: skip
_MANNERS = (
    "softly", "loudly", "twice", "again and again", "with a long echo", "very close", "far away", "suddenly",
    "at a steady rhythm", "getting faster", "slowly fading out", "rising in pitch", "falling in pitch",
    "muffled", "bright and sharp", "deep and warm", "distorted", "on the left", "on the right",
)  # fmt: skip
_PLACES = (
    "in a forest", "in a small room", "in a large hall", "in the street", "at night", "by the sea", "in a cave",
    "under water", "in a kitchen", "in a quiet studio", "in the mountains", "on a farm", "in a factory",
    "at a railway station", "in a church", "on a windy field", "behind a closed door",
)  # fmt: skip


def captions() -> Iterator[str]:
    """Every sound in eight manners and places, and each template of the corpus four times with empty fields."""
    for at, sound in enumerate(_SOUNDS):
        for turn in range(8):
            manner = _MANNERS[(at * 5 + turn * 7) % len(_MANNERS)]
            place = _PLACES[(at * 3 + turn * 5) % len(_PLACES)]
            sentence = f"{sound} {manner} {place}" if turn % 2 else f"{place}, {sound} {manner}"
            yield f"{sentence[0].upper()}{sentence[1:]}."
    for captions_of_kind in [kind.captions for kind in KINDS.values()] + [
        kind.captions for kind in FILM_KINDS.values()
    ]:
        for template in captions_of_kind:
            yield from [re.sub(r"\s+", " ", re.sub(r"\{\w*\}", "", template)).strip()] * 4
