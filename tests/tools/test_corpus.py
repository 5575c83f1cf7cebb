"""The corpus keeps its word: what captions and facts say can be measured in the sounds and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import sentence, sound
from films import FRAME_COUNTS, FRAME_RATE, film
from numpy.typing import NDArray
from scenes import HELD_OUT_KINDS as HELD_OUT_FILMS
from scenes import KINDS as FILMS
from sounds import HELD_OUT_KINDS, KINDS
from sounds.kind import RATE
from sounds.modes import ring
from sounds.room import ROOMS, response, reverberate
from sounds.waves import cycles, wave
from sounds.words import note_name

pytestmark = pytest.mark.slow  # guards the making of `tiny`, which is in the package as a file
ALL_KINDS = KINDS | HELD_OUT_KINDS
ALL_FILMS = FILMS | HELD_OUT_FILMS
# What a listener would call each kind: one of these words stands in every caption of it.
NOUNS = {
    "tone": ("tone", "wave", "organ", "flute", "clarinet", "trumpet", "violin", "accordion", "pad"),
    "chord": ("chord",),
    "melody": ("melody",),
    "beep": ("beep",),
    "sweep": ("sweep",),
    "siren": ("siren",),
    "whistle": ("whistle",),
    "bird": ("bird",),
    "pluck": ("pluck",),
    "strum": ("strum",),
    "piano": ("piano",),
    "bell": ("bell", "bowl", "gong"),
    "mallet": ("mallet", "phone", "marimba", "glockenspiel", "music box"),
    "knock": ("knock",),
    "bounce": ("bounc",),
    "shatter": ("shatter",),
    "clock": ("clock",),
    "footsteps": ("footstep",),
    "drum": ("drum", "hi-hat", "tom", "cymbal", "clap", "rimshot", "cowbell", "shaker"),
    "drum pattern": ("drum",),
    "noise": ("noise",),
    "wind": ("wind",),
    "rain": ("rain",),
    "surf": ("wave", "surf"),
    "fire": ("fire", "stove"),
    "thunder": ("thunder",),
    "drips": ("drip", "drop"),
    "stream": ("water", "stream"),
    "applause": ("applau", "clapping"),
    "whoosh": ("whoosh",),
    "steam": ("hiss",),
    "engine": ("engine",),
    "hum": ("hum",),
    "motor": ("motor", "whirr"),
    "fan": ("fan", "air conditioner", "ventilator"),
    "helicopter": ("helicopter",),
    "speech": ("speaks", "says", "speech", "asks"),
    "vowel": ("sings", "vowel", "sung", "singing"),
    "choir": ("choir",),
    "laugh": ("laugh",),
    "silence": ("silence",),
    "laser": ("laser",),
    "creak": ("creak",),
    "theremin": ("theremin",),
    "crickets": ("cricket",),
    "chiptune": ("chiptune",),
    "purr": ("purr",),
}


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def of_kind(kind: str, index: int, seconds: float = 2.0):
    return sound(11, index, seconds, {kind: ALL_KINDS[kind]})


def spectrum(samples: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Hertz and power of the mean of the channels."""
    mono = samples.mean(axis=0)
    size = 1 << 19
    power = np.square(np.abs(np.fft.rfft(mono * np.hanning(len(mono)), size)))
    return np.fft.rfftfreq(size, 1 / RATE), power


def novelty(samples: NDArray[np.floating], per_second: int = 200) -> NDArray[np.floating]:
    """How much the level in decibels rises from one 1/200 s to the next; what is 60 dB below the peak counts as 0."""
    step = RATE // per_second
    mono = np.diff(samples.mean(axis=0), prepend=0.0)
    energy = np.square(mono[: len(mono) // step * step]).reshape(-1, step).mean(axis=1)
    decibels = 10 * np.log10(energy / energy.max() + 1e-6)
    return np.maximum(0, np.diff(decibels, prepend=-60.0))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_makes_sound_and_names_it(kind: str) -> None:
    for index, seconds in enumerate((0.8, 1.3)):
        sample = of_kind(kind, index, seconds)
        samples = sample.audio.samples
        assert sample.kind == kind and sample.audio.sample_rate == RATE
        assert samples.shape == (2, round(seconds * RATE)) and samples.dtype == np.float32
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1
        if kind == "silence":
            assert np.abs(samples).max() < 10 ** (-50 / 20)
        else:
            assert np.abs(samples).max() > 10 ** (-25 / 20)
            assert samples.std() > 1e-4


@pytest.mark.parametrize("kind", [name for name in ALL_KINDS if name != "silence"])
def test_a_clip_follows_from_seed_and_index(kind: str) -> None:
    one, again, other = (sound(seed, 3, 0.7, {kind: ALL_KINDS[kind]}) for seed in (1, 1, 2))
    assert again.caption == one.caption and again.facts == one.facts
    assert np.array_equal(again.audio.samples, one.audio.samples)
    assert not np.array_equal(other.audio.samples, one.audio.samples)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_sentence_names_its_kind(kind: str) -> None:
    for index in range(3):
        _, facts = ALL_KINDS[kind].make(rng(index), 2.0)
        for template in ALL_KINDS[kind].captions:
            caption = sentence(template, facts)
            assert any(noun in caption for noun in NOUNS[kind]), caption
            assert "{" not in caption and "  " not in caption and " ," not in caption, caption
    assert len(ALL_KINDS[kind].captions) >= 3


def test_articles_fit_what_follows() -> None:
    facts = {"what": "organ", "how": "", "note": "F sharp 3"}
    assert sentence("a {how} {what} holds a {how} {note} chord", facts) == "an organ holds an F sharp 3 chord"
    assert sentence("a {who} holds a D4", {"who": "choir"}) == "a choir holds a D4"


def test_a_block_of_the_corpus_holds_every_kind_once() -> None:
    kinds = {name: KINDS[name] for name in ("beep", "hum", "drum", "bell")}
    first, second = ([sound(5, block * 4 + turn, 1.0, kinds).kind for turn in range(4)] for block in range(2))
    assert sorted(first) == sorted(second) == sorted(kinds)
    assert sound(6, 0, 1.0, kinds).caption != sound(5, 0, 1.0, kinds).caption


def test_held_out_kinds_are_apart() -> None:
    assert len(HELD_OUT_KINDS) >= 4 and len(HELD_OUT_FILMS) >= 2
    assert not HELD_OUT_KINDS.keys() & KINDS.keys() and not HELD_OUT_FILMS.keys() & FILMS.keys()
    trained = " ".join(caption for kind in (*KINDS.values(), *FILMS.values()) for caption in kind.captions)
    for noun in (*(noun for name in HELD_OUT_KINDS for noun in NOUNS[name]), "hammer", "domino", "rally", "tennis"):
        assert noun not in trained
    assert set(NOUNS) == set(ALL_KINDS)


@pytest.mark.parametrize(
    "kind", ["tone", "beep", "pluck", "piano", "vowel", "hum", "bell", "mallet", "chord", "whistle"]
)
def test_the_pitch_is_the_stated_one(kind: str) -> None:
    checked = 0
    for index in range(12):
        samples, facts = KINDS[kind].make(rng(3, index), 2.0)
        if "pitch_hz" not in facts or facts.get("what") == "melody":
            continue
        hertz, power = spectrum(samples)
        pitch = facts["pitch_hz"]
        near = (hertz > 0.87 * pitch) & (hertz < 1.15 * pitch)
        assert hertz[near][power[near].argmax()] == pytest.approx(pitch, rel=0.02)
        if kind not in ("bell", "chord"):  # a church bell hums an octave below its name
            an_octave_below = (hertz > 0.47 * pitch) & (hertz < 0.53 * pitch)
            assert power[an_octave_below].max() < power[near].max()
        checked += 1
    assert checked >= 2


def test_notes_are_named_by_scientific_pitch() -> None:
    for hertz, name in ((440.0, "A4"), (261.63, "C4"), (55.0, "A1"), (277.18, "C sharp 4"), (3951.1, "B7")):
        assert note_name(hertz) == name
    for index in range(8):
        _, facts = KINDS["tone"].make(rng(index), 0.3)
        assert facts["note"] == note_name(facts["pitch_hz"])


def test_sweeps_end_where_they_say() -> None:
    for index in range(6):
        samples, facts = KINDS["sweep"].make(rng(4, index), 2.0)
        ends = [spectrum(part) for part in (samples[:, :4800], samples[:, -9600:-4800])]
        first, last = (hertz[power.argmax()] for hertz, power in ends)
        assert (last > first) == (facts["direction"] == "rising") == (facts["to_hz"] > facts["from_hz"])
        assert max(first, last) > 4 * min(first, last)


@pytest.mark.parametrize("kind", ["drum pattern", "clock", "strum", "melody"])
def test_the_tempo_is_the_stated_one(kind: str) -> None:
    for index in range(4):
        samples, facts = KINDS[kind].make(rng(6, index), 5.0)
        rises = novelty(samples)
        size = 2 * len(rises)
        correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(rises - rises.mean(), size))))
        beat = 60 / facts["tempo_bpm"] * 200  # in steps of the novelty

        def around(lag: float, correlation: NDArray[np.floating] = correlation) -> float:
            return float(correlation[round(lag) - 1 : round(lag) + 2].max())

        assert around(beat) > max(0.15 * correlation[0], 2 * around(0.9 * beat), 2 * around(1.1 * beat))


@pytest.mark.parametrize("kind", ["knock", "drum", "beep", "bell", "bird", "drips", "laser"])
def test_as_many_events_are_heard_as_stated(kind: str) -> None:
    for index in range(4):
        samples, facts = ALL_KINDS[kind].make(rng(7, index), 3.0)
        assert facts["count"] == len(facts["onsets"]) > 0
        rises = novelty(samples)
        for onset in facts["onsets"]:
            step = int(onset * 200)
            assert rises[max(0, step - 1) : step + 4].max() > 6


def test_much_of_the_corpus_reaches_above_8_khz() -> None:
    bright = 0
    for index in range(24):
        hertz, power = spectrum(sound(1, index, 1.0).audio.samples)
        bright += bool(power[hertz > 8000].sum() > 1e-3 * power.sum())
    assert bright >= 6


def test_brightness_is_told() -> None:
    assert of_kind("steam", 0).facts["brightness"] == "bright"
    assert of_kind("hum", 1).facts["brightness"] == "dark"


def test_a_room_rings_on() -> None:
    click = np.zeros((2, RATE))
    click[:, 0] = 1.0
    for room in ROOMS:
        wet = reverberate(click, response(rng(9), room))
        early, late = (np.square(wet[:, begin : begin + 4800]).sum() for begin in (480, 24_000))
        assert wet[0, 0] == pytest.approx(1.0, abs=1e-9)
        assert early > 5 * late
        assert np.abs(np.corrcoef(wet[:, 480:])[0, 1]) < 0.5  # two sides, not one


def test_a_wave_is_the_sum_of_its_harmonics() -> None:
    phase = cycles(np.linspace(100, 300, 4000), 4000)
    amplitudes = np.array([1.0, 0.0, 0.5, 0.25])
    expected = sum(a * np.sin(2 * np.pi * (n + 1) * phase) for n, a in enumerate(amplitudes))
    np.testing.assert_allclose(wave(phase, amplitudes), expected, atol=1e-5)


def test_modes_are_decaying_sines() -> None:
    time = np.arange(5000) / RATE
    modes = ((440.0, 0.1, 0.5), (3000.0, 0.02, 1.0))
    expected = sum(a * np.exp(-time / tau) * np.sin(2 * np.pi * hertz * time) for hertz, tau, a in modes)
    np.testing.assert_allclose(ring(*zip(*modes, strict=True), 5000), expected, atol=1e-9)


@pytest.mark.parametrize("kind", ALL_FILMS)
def test_films_are_well_formed(kind: str) -> None:
    kinds = {kind: ALL_FILMS[kind]}
    made = film(2, 0, kinds=kinds)
    again = film(2, 0, kinds=kinds)
    assert np.array_equal(made.frames, again.frames) and np.array_equal(made.audio.samples, again.audio.samples)
    assert (made.caption, made.events) == (again.caption, again.events)
    count = len(made.frames)
    assert count in FRAME_COUNTS and count % 8 == 1
    assert made.frames.shape[1:] == (64, 96, 3) and made.frames.dtype == np.uint8
    assert made.audio.samples.shape == (2, count * RATE // FRAME_RATE)
    assert np.isfinite(made.audio.samples).all() and 0.1 < np.abs(made.audio.samples).max() <= 1
    assert made.caption and list(made.events) == sorted(made.events)
    assert film(2, 1, 49, (96, 96), kinds).frames.shape == (49, 96, 96, 3)


@pytest.mark.parametrize("kind", ALL_FILMS)
def test_what_happens_is_heard_and_seen_at_once(kind: str) -> None:
    rises = []
    for index in range(4):
        made = film(8, index, 49, kinds={kind: ALL_FILMS[kind]})
        samples = made.audio.samples
        begins = np.flatnonzero(np.abs(samples).max(axis=0) > 1e-3 * np.abs(samples).max())[0] / RATE
        assert begins == pytest.approx(made.events[0], abs=0.001)

        sharp = np.diff(samples.mean(axis=0, dtype=np.float64), 2, prepend=(0.0, 0.0))
        before = -1.0
        for event in made.events:
            frame, at = round(event * FRAME_RATE), round(event * RATE)
            if frame:
                moved = np.abs(made.frames[frame].astype(int) - made.frames[frame - 1]).max(axis=-1)
                assert np.count_nonzero(moved > 20) >= 20
            if event - before > 0.1:  # closer ones hide each other
                level = np.square(sharp[max(0, at - 576) : at - 96]).mean() if at > 96 else 0.0
                rises.append(np.square(sharp[at : at + 240]).mean() / (level + 1e-12))
            before = event
    # In a reverberating room a feeble blow may drown in the ringing of the ones before.
    assert len(rises) >= 4 and np.mean(np.array(rises) > 1.5) > 0.9


def test_the_frame_nearest_to_a_contact_shows_it() -> None:
    """A hammer is in the same place whenever it meets an anvil, wherever between two frames that is."""
    checked = 0
    for index in range(8):
        made = film(3, index, 73, kinds={"hammering": HELD_OUT_FILMS["hammering"]})
        if "anvil" in made.caption and len(made.events) > 1:
            first, *others = (made.frames[round(event * FRAME_RATE)] for event in made.events)
            assert all(np.array_equal(first, other) for other in others)
            checked += 1
    assert checked >= 2


def test_a_film_is_heard_where_it_is_seen() -> None:
    """Drops fall at one place, so the ripples and the sound lie on the same side."""
    sides = []
    for index in range(8):
        made = film(9, index, 49, kinds={"drops": FILMS["drops"]})
        frame, at = round(made.events[0] * FRAME_RATE), round(made.events[0] * RATE)
        ripples = np.abs(made.frames[frame + 4].astype(int) - made.frames[frame - 1]).max(axis=-1) > 20
        place = np.nonzero(ripples)[1].mean() / 96 - 0.5
        left, right = np.square(made.audio.samples[:, at : at + 96].astype(np.float64)).sum(axis=1)
        if abs(place) > 0.05:
            assert (right > left) == (place > 0)
            sides.append(place > 0)
    assert {True, False} <= set(sides)


def test_film_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        film(0, 0, size=(60, 96))
    for frames in (50, 9):
        with pytest.raises(ValueError, match="8k \\+ 1"):
            film(0, 0, frames)
