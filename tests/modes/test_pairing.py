"""File names to samples, mode by mode."""

from __future__ import annotations

import pytest

from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.audio_inpaint import parse_mask


def pair(mode, *names):
    return MODES[mode].pair(names)


@pytest.mark.parametrize("mode", ["t2a", "audio-extend-suffix", "audio-extend-prefix"])
def test_plain_clips(mode):
    pairing = pair(mode, "a.wav", "a.txt", "b.MP3", "c.txt", "d.jpg")
    assert [(one.name, one.target, one.caption) for one in pairing.samples] == [
        ("a", "a.wav", "a.txt"),
        ("b", "b.MP3", None),
    ]
    assert pairing.skipped.keys() == {"c.txt", "d.jpg"}


def test_names_are_compared_without_case_folder_and_unicode_form():
    decomposed, composed = "caf\u0065\u0301.wav", "caf\u00e9.txt"
    (sample,) = pair("t2a", f"audio/{decomposed}", f"text/{composed.upper()}").samples
    assert sample.caption == f"text/{composed.upper()}"


def test_references_and_targets():
    pairing = pair("a2a", "x_start.wav", "x_end.flac", "x.txt", "y_start.wav", "z.wav", "notes.md")
    (sample,) = pairing.samples
    assert (sample.name, sample.target, sample.reference, sample.caption) == ("x", "x_end.flac", "x_start.wav", "x.txt")
    assert "without its target y_end" in pairing.skipped["y_start.wav"]
    assert "neither a reference nor a target" in pairing.skipped["z.wav"]
    assert "notes.md" in pairing.skipped


def test_a_target_without_its_reference_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"x_end\.wav has no reference: add x_start"):
        pair("a2a", "x_end.wav", "y_start.wav", "y_end.wav")


def test_clips_and_masks():
    pairing = pair("audio-inpaint", "a.wav", "a_mask.json", "a.txt", "settings.json")
    (sample,) = pairing.samples
    assert (sample.target, sample.mask, sample.caption) == ("a.wav", "a_mask.json", "a.txt")
    assert pairing.skipped.keys() == {"settings.json"}


def test_every_clip_without_mask_and_mask_without_clip_is_named():
    with pytest.raises(InputError) as caught:
        pair("audio-inpaint", "a.wav", "b_mask.json", "c.wav", "c_mask.json")
    assert len(caught.value.items) == 2
    assert "a.wav has no mask: add a_mask.json" in str(caught.value)
    assert "b_mask.json belongs to no clip" in str(caught.value)


def test_videos_and_no_images():
    pairing = pair("v2a", "a.mp4", "a.txt", "b.MOV", "cover.jpg")
    assert [one.target for one in pairing.samples] == ["a.mp4", "b.MOV"]
    assert "cover.jpg" in pairing.skipped
    with pytest.raises(InputError, match=r"these are images.*a\.png"):
        pair("v2a", "a.png", "b.png", "a.txt")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("[[1, 2]]", ((1, 2),)),
        ("[[1.5, 2.0], [3.5, 9]]", ((1.5, 2.0), (3.5, 5.0))),
        ("[[0, 5]]", ((0, 5),)),
        ("[[6, 7], [1, 2]]", ((1, 2),)),
    ],
)
def test_masks(text, spans):
    assert parse_mask(text, 5.0) == spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[[1, 2]", "not JSON"),
        ("{}", "should be a list"),
        ("[]", "should be a list"),
        ("[1, 2]", "1 is not a range"),
        ('[["1", "2"]]', "not a range"),
        ("[[1, null]]", "not a range"),
        ("[[true, 2]]", "not a range"),
        ("[[NaN, 2]]", "not finite"),
        ("[[1, Infinity]]", "not finite"),
        ("[[-0.5, 2]]", "begins before 0 s"),
        ("[[2, 2]]", "is empty"),
        ("[[3, 2]]", "is empty"),
        ("[[5, 6]]", "no range lies inside the clip, which is 5 s long"),
    ],
)
def test_masks_that_are_wrong(text, words):
    with pytest.raises(ValueError, match=words):
        parse_mask(text, 5.0)
