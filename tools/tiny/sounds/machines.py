"""Machines: engines, electric motors, hums, fans, helicopters."""

from __future__ import annotations

import numpy as np

from sounds.kind import Facts, Kind, Rng, Samples, log_uniform, pick, samples_in
from sounds.mix import both
from sounds.shaped import above, at_frames, band, below, coloured, evolving, filtered
from sounds.waves import cycles, glide, harmonic_numbers, sine, wander, wave
from sounds.words import register

_ENGINES = {  # cylinders fired in one cycle, idling and highest cycles a second
    "car": (4, 6.5, 28.0),
    "truck": (6, 4.5, 14.0),
    "motorcycle": (2, 9.0, 55.0),
    "tractor": (2, 4.0, 10.0),
    "racing car": (8, 14.0, 70.0),
}
_HUMS = {"a power transformer": 100.0, "a refrigerator": 50.0, "mains electricity": 50.0, "an amplifier": 60.0,
         "a fluorescent lamp": 120.0}  # fmt: skip
_MOTORS = {"a drill": (90, 400), "a vacuum cleaner": (180, 420), "a blender": (150, 350), "a toy motor": (250, 700),
           "a dentist's drill": (600, 1500)}  # fmt: skip


def engine(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """One turn of the crank is one period of a wave with a bump for each cylinder, no two bumps alike."""
    name = pick(rng, tuple(_ENGINES))
    how = pick(rng, ("idles", "revs up", "accelerates", "slows down", "runs steadily"))
    cylinders, idle, top = _ENGINES[name]
    low, high = idle * rng.uniform(0.8, 1.3), top * rng.uniform(0.6, 1.0)
    count = samples_in(seconds)
    values, at = {
        "idles": ((low, low), (0, 1)),
        "runs steadily": ((0.5 * high,) * 2, (0, 1)),
        "revs up": ((low, high, 1.3 * low, low), (0.15, 0.45, 0.8, 1)),
        "accelerates": ((low, high), (0.1, 0.9)),
        "slows down": ((high, low), (0.1, 0.9)),
    }[how]
    per_second = glide(values, seconds * np.array(at), count) * np.exp2(wander(rng, count, 9, -0.03, 0.03))
    phase = cycles(per_second, count)

    number = harmonic_numbers(float(per_second.max()))
    firing = np.where(number % cylinders == 0, 1.0, 0.18 * rng.random(len(number)))
    exhaust = wave(phase, firing * number**-0.55)
    peaks, widths = log_uniform(rng, 70, 140) * np.array([1, 2.7, 6.2, 14]), np.array([1.2, 0.9, 0.9, 1.2])
    weights = np.array([1.0, 0.7, 0.4, 0.2])
    exhaust = filtered(
        exhaust, lambda hertz: weights @ np.stack([band(hertz, p, w) for p, w in zip(peaks, widths, strict=True)])
    )
    puff = 0.35 + 0.65 * np.maximum(0, np.cos(2 * np.pi * cylinders * phase)) ** 3
    air = coloured(rng, count, lambda hertz: band(hertz, 900, 3) + 0.15 * above(hertz, 4000, 1)) * puff
    load = (per_second / high) ** 0.5
    samples = exhaust / np.abs(exhaust).max() + 0.05 * air
    return both(samples * load), {"engine": name, "how": how}


def hum(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    source = pick(rng, tuple(_HUMS))
    pitch, count = _HUMS[source], samples_in(seconds)
    number = harmonic_numbers(pitch)[:40]
    amplitudes = rng.uniform(0.2, 1.0, len(number)) * number**-1.2
    amplitudes[0] = 1.0
    hiss = coloured(rng, count, lambda hertz: band(hertz, 1500, 4))
    samples = wave(cycles(pitch, count), amplitudes) + rng.uniform(0.01, 0.08) * hiss
    return both(samples * wander(rng, count, 2, 0.85, 1.0)), {"source": source, "pitch_hz": pitch}


def motor(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    what = pick(rng, tuple(_MOTORS))
    count, pitch = samples_in(seconds), log_uniform(rng, *_MOTORS[what])
    spin_up = rng.uniform(0.1, 0.5)
    speed = glide((0.15, 1.0, 1.0), (0, spin_up, seconds), count) * np.exp2(wander(rng, count, 6, -0.05, 0.05))
    number = harmonic_numbers(pitch * 1.05)
    amplitudes = number**-0.9 * rng.uniform(0.1, 1.0, len(number))
    whine = wave(cycles(pitch * speed, count), amplitudes) + 0.3 * wave(cycles(pitch * speed / 7, count), amplitudes)

    def gain(at: Samples, hertz: Samples) -> Samples:
        now = at_frames(speed, at)
        return now * (band(hertz, 5 * pitch * now, 2.5) + 0.3 * above(hertz, 3000, 1))

    samples = whine / np.abs(whine).max() * speed + rng.uniform(0.08, 0.25) * evolving(rng, count, gain)
    return both(samples), {"what": what, "register": register(2 * pitch)}


def fan(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count = samples_in(seconds)
    blades = rng.uniform(25, 90)
    chop = 1 + rng.uniform(0.1, 0.5) * sine(blades, count)
    air = [coloured(rng, count, lambda hertz: below(hertz, 700, 1) * above(hertz, 60, 1)) for _ in range(2)]
    tone = 0.4 * wave(cycles(blades, count), harmonic_numbers(blades)[:12] ** -1.0)
    return np.stack(air) * chop * 0.4 + tone, {"what": pick(rng, ("a fan", "an air conditioner", "a ventilator"))}


def helicopter(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count, rate = samples_in(seconds), rng.uniform(9, 16)
    phase = cycles(rate * np.exp2(wander(rng, count, 1, -0.02, 0.02)), count)
    slap = np.exp(-((phase % 1) * rng.uniform(5, 9)))
    wash = [
        evolving(rng, count, lambda _, hertz: band(hertz, 130, 2.2) + 0.12 * band(hertz, 1200, 3)) for _ in range(2)
    ]
    turbine = 0.03 * sine(rng.uniform(1800, 3000), count)
    approach = pick(rng, ("hovers", "approaches", "flies away"))
    ends = {"hovers": (1.0, 1.0), "approaches": (0.15, 1.0), "flies away": (1.0, 0.15)}[approach]
    return (np.stack(wash) * (0.12 + slap) + turbine) * np.geomspace(*ends, count), {"how": approach}


KINDS = (
    Kind(
        "engine",
        engine,
        (
            "a {engine} engine {how}",
            "the engine of a {engine} {how}",
            "a {engine} {how}, engine noise",
            "engine of a {engine} that {how}",
        ),
        sustained=True,
    ),
    Kind(
        "hum",
        hum,
        (
            "the hum of {source}",
            "{source} hums at {pitch_hz:.0f} hertz",
            "a low electric hum, {source}",
            "{source} hums",
        ),
        sustained=True,
    ),
    Kind(
        "motor",
        motor,
        ("{what} whirrs", "{what} runs, {register} motor whine", "an electric motor, {what}", "the motor of {what}"),
    ),
    Kind("fan", fan, ("{what} blows", "the steady blowing of {what}", "{what} runs, air blowing"), sustained=True),
    Kind(
        "helicopter",
        helicopter,
        ("a helicopter {how}", "helicopter blades chop the air", "a helicopter overhead {how}"),
        sustained=True,
    ),
)
