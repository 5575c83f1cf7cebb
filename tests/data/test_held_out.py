"""Which clips are held out: how many, whole recordings alone, and the same ones whatever the order and the names."""

from __future__ import annotations

import numpy as np
import pytest

from sonolora.core.errors import InputError
from sonolora.data.clips import Clip
from sonolora.data.held_out import split_clips, wanted_count
from sonolora.media.audio import Waveform

RATE = 16000


def sound(seed, seconds=2.0):
    """Bursts of noise, which no other seed has alike."""
    random = np.random.default_rng(seed)
    count = round(seconds * RATE)
    levels = np.repeat(random.uniform(0, 1, -(-count // 800)) ** 3, 800)[:count]
    return Waveform((levels * random.uniform(-0.5, 0.5, (2, count))).astype(np.float32), RATE)


def clip(number, source=None, audio=None, **parts):
    return Clip(f"clip{number}", "words", audio or sound(number), source=source or f"file {number}", **parts)


@pytest.mark.parametrize(
    ("setting", "clips", "count"),
    [
        (None, 11, 0), (None, 12, 2), (None, 24, 2), (None, 25, 3), (None, 160, 16), (None, 5000, 16),
        (0, 100, 0), (3, 100, 3), (1, 2, 1), (0.2, 10, 2), (0.2, 48, 10), (0.01, 10, 1),
    ],
)  # fmt: skip
def test_how_many(setting, clips, count):
    assert wanted_count(setting, clips) == count


@pytest.mark.parametrize("setting", [3, 7, 0.9])
def test_something_must_be_left_to_train_on(setting):
    with pytest.raises(InputError, match="held_out: must leave clips"):
        wanted_count(setting, 3)


def test_the_choice_depends_on_the_sources_alone():
    clips = [clip(number) for number in range(12)]
    held_out = {clips[index].source for index in split_clips(clips, None).held_out}
    assert len(held_out) == 2
    renamed = [Clip(f"other{number}", "", one.audio, source=one.source) for number, one in enumerate(clips)][::-1]
    assert {renamed[index].source for index in split_clips(renamed, None).held_out} == held_out
    split = split_clips(clips, None)
    assert sorted((*split.trained, *split.held_out)) == list(range(12))
    assert split.note.startswith("held out of training: 2 of 12 clips: clip")


@pytest.mark.parametrize("count", range(1, 9))
def test_clips_of_one_recording_are_never_on_both_sides(count):
    windows = [clip(number, source=f"file {number // 3}") for number in range(12)]
    louder = Waveform(0.3 * windows[4].audio.samples[:, 800:], RATE)
    copies = [
        clip(20, audio=louder),
        clip(21),
        clip(22, reference=sound(50)),
        clip(23, reference=sound(50)),
    ]
    split = split_clips([*windows, *copies], count)
    sides = {}
    for index, recording in enumerate(split.recordings):
        sides.setdefault(recording, set()).add(index in split.held_out)
    assert all(len(side) == 1 for side in sides.values())
    assert split.recordings[12] == split.recordings[4], "another level and cut of it"
    assert split.recordings[14] == split.recordings[15], "one reference with two targets"
    assert len(set(split.recordings)) == 4 + 2, "recordings"
    assert 0 < len(split.held_out) <= max(count, 1)


def test_of_a_single_recording_nothing_can_be_held_out():
    split = split_clips([clip(number, source="one") for number in range(12)], None)
    assert not split.held_out and len(split.trained) == 12
    assert "nearly all of the 12 clips are from one recording, or sound like it" in split.note


def test_a_sentence_says_what_is_lost_without_them():
    for setting, why in ((None, "there are fewer than 12"), (0, "as asked")):
        split = split_clips([clip(number) for number in range(4)], setting)
        assert split.held_out == () and split.trained == (0, 1, 2, 3)
        assert f"no clips are held out of 4: {why}." in split.note and "--held-out N" in split.note
