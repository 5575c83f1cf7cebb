"""Words for numbers: note names, registers, counts, speeds."""

from __future__ import annotations

import math

from sounds.kind import Facts, Rng

_NOTES = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B")
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_A4_HZ, _A4_MIDI = 440.0, 69


def midi_hz(midi: float) -> float:
    return float(_A4_HZ * 2 ** ((midi - _A4_MIDI) / 12))


def note_name(hertz: float) -> str:
    """The nearest note in scientific pitch notation, such as "C sharp 4"; "A4" where it needs no accidental."""
    midi = round(_A4_MIDI + 12 * math.log2(hertz / _A4_HZ))
    name = _NOTES[midi % 12]
    return f"{name}{' ' if len(name) > 1 else ''}{midi // 12 - 1}"


def register(hertz: float) -> str:
    """How high a pitch is, in a word; empty for the middle."""
    for limit, word in ((90, "very low"), (220, "low"), (900, ""), (2000, "high")):
        if hertz < limit:
            return word
    return "very high"


def pitched(rng: Rng, lowest_midi: int, highest_midi: int) -> Facts:
    """A random note of equal temperament: its `pitch_hz`, and `note` and `register` in words."""
    hertz = midi_hz(int(rng.integers(lowest_midi, highest_midi + 1)))
    return {"pitch_hz": hertz, "note": note_name(hertz), "register": register(hertz)}


def number(count: int) -> str:
    return _COUNTS[count] if count < len(_COUNTS) else "many"


def many(count: int, noun: str) -> str:
    """ "a single knock", "three knocks", "many knocks"."""
    return f"a single {noun}" if count == 1 else f"{number(count)} {noun}s"


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{number(count)} times")


def speed(per_minute: float) -> str:
    """How fast a beat is, in a word; empty for the middle."""
    return "slow" if per_minute < 85 else "fast" if per_minute > 135 else ""
