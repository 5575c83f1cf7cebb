"""The human voice by source and filter: a glottal wave and breath through formants that move from sound to sound.

Formant frequencies of the vowels after Peterson and Barney (1952), in round numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sounds.kind import Facts, Kind, Rng, Samples, log_uniform, pick, samples_in
from sounds.mix import both, pan
from sounds.shaped import Spectrum, band, evolving, filtered, frame_times, resonate, resonate_hertz
from sounds.waves import cycles, glide, harmonic_numbers, swell, vibrato, wander, wave
from sounds.words import note_name, register, times

_UPPER = (3400.0, 4500.0)
_BANDWIDTHS = np.array([70.0, 90.0, 130.0, 200.0, 300.0])
_WEIGHTS = np.array([1.0, -0.6, 0.35, -0.2, 0.12])  # alternating signs leave no holes between formants
_PITCHES = {"man": (85, 150), "woman": (165, 255), "child": (260, 380)}
_THROATS = {"man": 1.0, "woman": 1.16, "child": 1.32}  # factor on the formants


@dataclass(frozen=True)
class Phone:
    """A speech sound: `formants` 1 to 3 in hertz, how much `voice` and `noise` it has, the noise's place in hertz."""

    formants: tuple[float, float, float]
    seconds: float
    voice: float = 1.0
    noise: float = 0.0
    noise_hz: float = 5000.0
    noise_octaves: float = 1.0


_VOWELS = {
    "ah": Phone((730, 1090, 2440), 0.17),
    "ee": Phone((270, 2290, 3010), 0.16),
    "oo": Phone((300, 870, 2240), 0.17),
    "eh": Phone((530, 1840, 2480), 0.14),
    "oh": Phone((570, 840, 2410), 0.17),
    "uh": Phone((640, 1190, 2390), 0.13),
}
_CONSONANTS = {
    "s": (Phone((320, 1700, 2600), 0.11, 0.0, 0.5, 7500, 0.9),),
    "sh": (Phone((320, 1800, 2500), 0.11, 0.0, 0.5, 3400, 0.9),),
    "f": (Phone((320, 1000, 2300), 0.09, 0.0, 0.12, 6500, 3.0),),
    "z": (Phone((300, 1700, 2600), 0.09, 0.35, 0.25, 7500, 0.9),),
    "h": (Phone((600, 1300, 2500), 0.08, 0.0, 0.12, 1500, 2.5),),
    "b": (Phone((220, 900, 2200), 0.06, 0.1), Phone((350, 950, 2250), 0.012, 0.4, 0.25, 900, 2.0)),
    "d": (Phone((220, 1750, 2700), 0.06, 0.1), Phone((350, 1750, 2700), 0.012, 0.4, 0.3, 4500, 1.5)),
    "g": (Phone((220, 2100, 2500), 0.06, 0.1), Phone((350, 2100, 2500), 0.018, 0.4, 0.3, 2200, 1.0)),
    "p": (Phone((300, 900, 2200), 0.08, 0.0), Phone((350, 950, 2250), 0.035, 0.0, 0.25, 1000, 2.5)),
    "t": (Phone((300, 1750, 2700), 0.08, 0.0), Phone((350, 1750, 2700), 0.035, 0.0, 0.4, 5000, 1.5)),
    "k": (Phone((300, 2000, 2500), 0.08, 0.0), Phone((350, 2000, 2500), 0.04, 0.0, 0.35, 2300, 1.2)),
    "m": (Phone((250, 1100, 2200), 0.08, 0.45),),
    "n": (Phone((250, 1500, 2400), 0.07, 0.45),),
    "l": (Phone((360, 1250, 2700), 0.07, 0.6),),
    "r": (Phone((330, 1060, 1450), 0.07, 0.6),),
    "w": (Phone((300, 650, 2200), 0.07, 0.6),),
    "y": (Phone((270, 2200, 3000), 0.06, 0.6),),
}
_PAUSE = Phone((500, 1500, 2500), 0.2, 0.0)


def _formant_filter(hertz: Samples, formants: Samples) -> Spectrum:
    """The response (..., bins) of five parallel resonances at `formants` (..., 5), the higher ones the weaker."""
    response = np.zeros((*formants.shape[:-1], hertz.shape[-1]), dtype=np.complex128)
    for at, (width, weight) in enumerate(zip(_BANDWIDTHS, _WEIGHTS, strict=True)):
        centre = formants[..., at, None]
        damped = 1j * hertz * width
        response += weight * damped / (centre * centre - hertz * hertz + damped)
    return response


def _glottis(hertz: Samples | float, count: int) -> Samples:
    """The voice before the mouth, with the mouth's radiation: harmonics that fall by 6 dB an octave."""
    number = harmonic_numbers(float(np.max(hertz)))
    return wave(cycles(hertz, count), 1 / number)


def speak(rng: Rng, phones: Sequence[Phone], pitch: Samples, throat: float) -> Samples:
    """The phones one after the other, as long as `pitch` (N,) in hertz; what does not fit is cut off."""
    count = len(pitch)
    ends = np.cumsum([phone.seconds for phone in phones])
    times_ = frame_times(count)[:, 0]
    at = np.searchsorted(ends, times_)
    phones = [*phones, Phone(phones[-1].formants, 1.0, 0.0)]
    at = np.minimum(at, len(phones) - 1)

    def track(values: Sequence[float], reach: int) -> Samples:
        """The values frame by frame, smoothed over `reach` frames to either side."""
        kernel = np.hanning(2 * reach + 3)[1:-1]
        frames = np.pad(np.asarray(values, dtype=np.float64)[at], reach, mode="edge")
        return np.convolve(frames, kernel / kernel.sum(), mode="valid")

    moving = [track([phone.formants[which] for phone in phones], 2) for which in range(3)]
    formants = throat * np.stack([*moving, *(np.full(len(at), hertz) for hertz in _UPPER)], axis=-1)
    voice = glide(track([phone.voice for phone in phones], 1), times_, count)
    noise = track([phone.noise for phone in phones], 0)[:, None]
    place = np.asarray([phone.noise_hz for phone in phones])[at, None]
    octaves = np.asarray([phone.noise_octaves for phone in phones])[at, None]

    breath = 0.02 * rng.standard_normal(count)
    voiced = resonate((_glottis(pitch, count) + breath) * voice, _formant_filter(resonate_hertz(), formants))
    hiss = evolving(rng, count, lambda _, hertz: noise * band(hertz, place, octaves))
    return voiced + 0.45 * hiss


def _syllables(rng: Rng, how_many: int) -> tuple[list[Phone], list[str]]:
    phones: list[Phone] = []
    names: list[str] = []
    for _ in range(how_many):
        consonant, vowel = pick(rng, tuple(_CONSONANTS)), pick(rng, tuple(_VOWELS))
        phones += [*_CONSONANTS[consonant], _VOWELS[vowel]]
        names.append(consonant + vowel)
        if rng.random() < 0.12:
            phones.append(_PAUSE)
    return phones, names


def speech(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    who, count = pick(rng, tuple(_PITCHES)), samples_in(seconds)
    pace = rng.uniform(0.85, 1.4)
    length = max(1, min(int(seconds / 0.27 / pace), int(rng.integers(2, 14))))
    phones, names = _syllables(rng, length)
    phones = [Phone(p.formants, p.seconds * pace, p.voice, p.noise, p.noise_hz, p.noise_octaves) for p in phones]
    question = bool(rng.integers(4) == 0)
    spoken = sum(phone.seconds for phone in phones)
    melody = glide((1.1, 0.95, 1.45) if question else (1.15, 1.0, 0.75), (0, 0.75 * spoken, spoken), count)
    pitch = log_uniform(rng, *_PITCHES[who]) * melody * np.exp2(wander(rng, count, 4, -0.12, 0.12))
    samples = speak(rng, phones, pitch, _THROATS[who] * rng.uniform(0.95, 1.05))
    facts: Facts = {"who": who, "syllables": " ".join(names[:6]), "pace": "slowly" if pace > 1.15 else "quickly"}
    return both(samples), facts | {"manner": "asks a question" if question else "speaks"}


def vowel(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    who, name, count = pick(rng, tuple(_PITCHES)), pick(rng, tuple(_VOWELS)), samples_in(seconds)
    pitch = log_uniform(rng, *_PITCHES[who])
    samples = _glottis(pitch * vibrato(rng, count, rng.uniform(10, 45)), count) + 0.02 * rng.standard_normal(count)
    formants = np.array([*_VOWELS[name].formants, *_UPPER]) * _THROATS[who]
    samples = filtered(samples, lambda hertz: _formant_filter(hertz, formants)) * swell(count, 0.08, 0.15)
    facts: Facts = {"who": who, "vowel": name, "pitch_hz": pitch, "note": note_name(pitch)}
    return both(samples), facts | {"register": register(pitch)}


def choir(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    name, count = pick(rng, tuple(_VOWELS)), samples_in(seconds)
    root = log_uniform(rng, 110, 200)
    chord, steps = pick(rng, (("major chord", (0, 7, 12, 16)), ("minor chord", (0, 7, 12, 15)), ("octaves", (0, 12))))
    sides = np.zeros((2, count))
    for step in np.resize(steps, 8):
        pitch = root * 2 ** (step / 12) * np.exp2(rng.normal(0, 0.006))
        bend = vibrato(rng, count, rng.uniform(15, 40)) * np.exp2(wander(rng, count, 3, -0.006, 0.006))
        sides += pan(_glottis(pitch * bend, count) * wander(rng, count, 2, 0.6, 1.0), rng.uniform(-0.8, 0.8))
    formants = np.array([*_VOWELS[name].formants, *_UPPER]) * 1.08
    sides += 0.05 * rng.standard_normal(sides.shape)
    sung = np.stack([filtered(side, lambda hertz: _formant_filter(hertz, formants)) for side in sides])
    return sung * swell(count, 0.25, 0.4), {"vowel": name, "chord": chord}


def laugh(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    who, count = pick(rng, tuple(_PITCHES)), samples_in(seconds)
    name = pick(rng, ("ah", "eh", "oh"))
    beats = max(2, min(int(rng.integers(3, 10)), int(seconds / 0.22)))
    sung = Phone(_VOWELS[name].formants, rng.uniform(0.07, 0.1))
    gasp = Phone(_VOWELS[name].formants, rng.uniform(0.07, 0.11), 0.0, 0.1, 1800, 2.5)
    fall = glide((1.5, 0.9), (0, beats * 0.2), count)
    pitch = log_uniform(rng, *_PITCHES[who]) * fall * np.exp2(wander(rng, count, 6, -0.1, 0.1))
    samples = speak(rng, [gasp, sung] * beats, pitch, _THROATS[who])
    return both(samples), {"who": who, "laugh": "h" + name, "times": times(beats)}


KINDS = (
    Kind(
        "speech",
        speech,
        (
            "a {who} {manner}",
            "a {who} says {syllables}",
            "a {who} speaks {pace}: {syllables}",
            "speech of a {who}",
            "a {who} {manner} {pace}",
        ),
    ),
    Kind(
        "vowel",
        vowel,
        (
            "a {who} sings {vowel} on {note}",
            "a {who} holds the vowel {vowel}",
            "a sung {register} {vowel} by a {who}",
            "a {who} singing a long {vowel}",
        ),
    ),
    Kind(
        "choir",
        choir,
        (
            "a choir sings {vowel}",
            "a choir holds a {chord}",
            "a choir sings a {chord} on {vowel}",
            "voices of a choir, {vowel}",
        ),
    ),
    Kind("laugh", laugh, ("a {who} laughs", "a {who} laughs, {laugh} {laugh} {laugh}", "laughter of a {who}")),
)
