"""An endless corpus of captioned sounds; every clip is a pure function of (seed, index).

In: a seed, an index, seconds. Out: a `Sample`: stereo at 48 kHz and a caption. A sound of some
kind is synthesised, placed in time, in a room, in the stereo field and over background noise, and set to a level; the
caption describes it and some of these. Every block of len(kinds) indices has each kind once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sounds import KINDS
from sounds.kind import RATE, Facts, Kind, Rng, Samples, log_uniform, pick, samples_in
from sounds.mix import add_at, both
from sounds.room import ROOMS, response, reverberate
from sounds.shaped import above, below, coloured, tilt
from sounds.waves import cycles, wave

from sonolora.media.audio import Waveform

_ORDER, _CLIP = 1, 2  # random streams

_DARK_HZ, _BRIGHT_HZ = 350.0, 4000.0  # spectral centroids below and above which a sound is called so
_QUIET_DBFS, _LOUD_DBFS = -18.0, -4.0
_ASIDE = 0.45  # pan position from which a caption names the side
_NOISY_DB = -40.0  # background noise further below the peak is not mentioned


@dataclass(frozen=True, eq=False)
class Sample:
    """`facts` are those of the kind (see `sounds.kind`) and the words (maybe empty) for `room`, `side`, `background`,
    `loudness` and `brightness`."""

    audio: Waveform
    caption: str
    kind: str
    facts: Facts


def sound(seed: int, index: int, seconds: float, kinds: Mapping[str, Kind] = KINDS) -> Sample:
    """Clip number `index` (from 0) of the corpus `seed`, of one of `kinds`."""
    block, turn = divmod(index, len(kinds))
    order = np.random.default_rng([_ORDER, seed, block]).permutation(len(kinds))
    kind = list(kinds.values())[order[turn]]
    rng = np.random.default_rng([_CLIP, seed, index])

    samples, facts = _with_pauses(rng, kind, seconds)
    facts |= {"room": "", "side": "", "background": "", "loudness": "", "brightness": ""}
    peak_dbfs = rng.uniform(*kind.peak_dbfs)
    if not kind.bare:
        facts["brightness"] = _brightness(samples)
        samples, facts["room"] = in_a_room(rng, samples)
        samples, facts["side"] = _to_a_side(rng, samples)
        noise, facts["background"] = _background(rng, samples.shape[1])
        samples = samples / np.abs(samples).max() + noise
        facts["loudness"] = "quiet" if peak_dbfs < _QUIET_DBFS else "loud" if peak_dbfs > _LOUD_DBFS else ""
    samples *= 10 ** (peak_dbfs / 20) / max(np.abs(samples).max(), 1e-9)
    return Sample(Waveform(samples.astype(np.float32), RATE), _caption(rng, kind, facts), kind.name, facts)


def sentence(template: str, facts: Facts) -> str:
    """The filled template, without gaps from empty words, and with "an" before vowels."""
    filled = re.sub(r"\s+", " ", template.format_map(facts)).strip()
    return re.sub(r"\ba (?=[aeio8]|[AEF](\d| sharp))", "an ", filled)


def in_a_room(rng: Rng, samples: Samples, share: float = 0.55) -> tuple[Samples, str]:
    """(2, N) samples, with probability `share` in a random room, and the words for that room."""
    if rng.random() > share:
        return samples, ""
    room = pick(rng, ROOMS)
    return reverberate(samples, response(rng, room)), room.where


def _with_pauses(rng: Rng, kind: Kind, seconds: float) -> tuple[Samples, Facts]:
    """The sound, sometimes with silence before it, and after it if it is sustained."""
    before = rng.uniform(0.05, 0.35) * seconds if rng.random() < 0.35 else 0.0
    after = rng.uniform(0.1, 0.35) * seconds if kind.sustained and rng.random() < 0.2 else 0.0
    samples, facts = kind.make(rng, seconds - before - after)
    if kind.sustained and before:
        _fade(samples, log_uniform(rng, 0.01, 0.4))
    if kind.sustained and after:
        _fade(samples[:, ::-1], log_uniform(rng, 0.01, 0.4))
    track = np.zeros((2, samples_in(seconds)))
    add_at(track, samples, before)
    if "onsets" in facts:
        facts["onsets"] = [onset + before for onset in facts["onsets"]]
    return track, facts | {"before": before, "after": after}


def _fade(samples: Samples, seconds: float) -> None:
    """Fade (2, N) samples in, in place."""
    count = min(samples_in(seconds), samples.shape[1])
    samples[:, :count] *= np.sin(np.linspace(0, np.pi / 2, count)) ** 2


def _brightness(samples: Samples) -> str:
    power = np.square(np.abs(np.fft.rfft(samples.mean(axis=0))))
    centroid = np.sum(power * np.fft.rfftfreq(samples.shape[1], 1 / RATE)) / (np.sum(power) + 1e-12)
    return "dark" if 0 < centroid < _DARK_HZ else "bright" if centroid > _BRIGHT_HZ else ""


def _to_a_side(rng: Rng, samples: Samples) -> tuple[Samples, str]:
    position = rng.uniform(-0.9, 0.9) if rng.random() < 0.4 else 0.0
    angle = (position + 1) * np.pi / 4
    aside = samples * (np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]]))
    return aside, "on the left" if position < -_ASIDE else "on the right" if position > _ASIDE else ""


def _background(rng: Rng, count: int) -> tuple[Samples, str]:
    """(2, N) noise for a sound of peak 1, and its name if it is audible; usually there is none."""
    if rng.random() > 0.3:
        return np.zeros((2, count)), ""
    name = pick(rng, ("tape hiss", "mains hum", "traffic rumble", "vinyl crackle"))
    decibels = rng.uniform(-58.0, -28.0)
    if name == "tape hiss":
        noise = np.stack([coloured(rng, count, lambda hertz: above(hertz, 2000, 1)) for _ in range(2)])
    elif name == "mains hum":
        noise = both(wave(cycles(50.0, count), np.array([1.0, 0.5, 0.4, 0.1, 0.2, 0.05, 0.1])))
    elif name == "traffic rumble":
        noise = np.stack([coloured(rng, count, lambda hertz: tilt(-6)(hertz) * below(hertz, 400)) for _ in range(2)])
    else:
        clicks = (rng.random((2, count)) < 12 / RATE) * rng.normal(0, 8, (2, count))
        noise = clicks + 0.3 * both(coloured(rng, count, lambda hertz: above(hertz, 500)))
    return noise * 10 ** (decibels / 20), name if decibels > _NOISY_DB else ""


def _caption(rng: Rng, kind: Kind, facts: Facts) -> str:
    """One of the sentences of the kind with random extras."""
    extras = [
        (facts["room"], 0.7),
        (facts["side"], 0.7),
        (facts["background"] and f"with {facts['background']} in the background", 0.8),
        (facts["loudness"] and {"quiet": "quietly", "loud": "loudly"}[facts["loudness"]], 0.5),
        (facts["brightness"] and pick(rng, ("a {} sound", "{}", "sounding {}")).format(facts["brightness"]), 0.35),
        (not kind.bare and facts["before"] > 0.3 and "after a moment of silence", 0.4),
        (not kind.bare and facts["after"] > 0.3 and "then silence", 0.5),
    ]
    said = [words for words, share in extras if rng.random() < share and words]
    caption = sentence(pick(rng, kind.captions), facts)
    caption = ", ".join([caption, *said])
    if rng.random() < 0.3:
        caption = f"{caption[0].upper()}{caption[1:]}."
    return caption
