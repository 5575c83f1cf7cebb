"""File names to samples, mode by mode."""

from __future__ import annotations

import unicodedata

import pytest

from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.audio_inpaint import parse_mask, usable_ranges


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


def test_every_clip_without_mask_is_named():
    with pytest.raises(InputError) as caught:
        pair("audio-inpaint", "a.wav", "b_mask.json", "c.wav", "c_mask.json", "d.mp3")
    assert [item.msg.split(":")[0] for item in caught.value.items] == ["a.wav has no mask", "d.mp3 has no mask"]
    assert "add a_mask.json" in str(caught.value)


def test_a_mask_without_a_clip_is_skipped():
    pairing = pair("audio-inpaint", "a.wav", "a_mask.json", "b_mask.json")
    assert [one.name for one in pairing.samples] == ["a"]
    assert pairing.skipped == {"b_mask.json": "a mask without a clip: none is named b"}


def collisions(mode, *names):
    with pytest.raises(InputError) as caught:
        pair(mode, *names)
    (item,) = caught.value.items
    assert item.loc == ("body", "training_data_url")
    assert "must be unique" in item.msg
    return item.msg.split("Rename all but one of: ")[1]


def test_names_that_make_a_sample_ambiguous_are_all_named():
    assert collisions("t2a", "a/x.wav", "b/x.wav", "c.wav") == "a/x.wav, b/x.wav."
    assert collisions("t2a", "x.wav", "a/x.txt", "b/x.txt") == "a/x.txt, b/x.txt."
    assert collisions("t2a", "x.mp3", "x.wav") == "x.mp3, x.wav."
    assert collisions("t2a", "a/x.flac", "b/X.WAV") == "a/x.flac, b/X.WAV."
    assert collisions("t2a", "a/x.wav", "a/y.wav", "b/x.wav", "b/y.wav") == "a/x.wav, b/x.wav; a/y.wav, b/y.wav."
    assert collisions("a2a", "x_start.wav", "x_start.mp3", "x_end.wav") == "x_start.wav, x_start.mp3."
    assert collisions("a2a", "x_start.wav", "a/x_end.wav", "b/x_end.wav") == "a/x_end.wav, b/x_end.wav."
    assert collisions("a2a", "x_start.wav", "x_end.wav", "a/x.txt", "b/X.txt") == "a/x.txt, b/X.txt."
    assert collisions("audio-inpaint", "x.wav", "a/x_mask.json", "b/x_mask.json") == "a/x_mask.json, b/x_mask.json."
    assert collisions("v2a", "x.mov", "x.mp4") == "x.mov, x.mp4."
    two_forms = [unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD")]
    assert len(set(two_forms)) == 2
    collisions("t2a", *two_forms)
    same = collisions("t2a", *(f"{n:03}/x.wav" for n in range(15)))
    assert same.endswith("009/x.wav, and 5 more.")
    assert collisions("t2a", *(f"{f}/{n:03}.wav" for n in range(17) for f in "ab")).endswith("; and 7 more.")


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("t2a", ("x.wav", "a/cover.jpg", "b/cover.jpg", "a/README.txt", "b/readme.txt")),
        ("t2a", ("x.wav", "x.txt", "x_mask.json", "x.mp4", "wav/x.png")),
        ("t2a", ("x.wav", "x.mov", "x.mp4")),
        ("a2a", ("x_start.wav", "x_end.wav", "a/y_start.wav", "b/y_start.wav")),
    ],
)
def test_equal_names_of_other_files_do_no_harm(mode, names):
    if mode == "a2a":
        assert collisions(mode, *names) == "a/y_start.wav, b/y_start.wav."
        return
    pairing = pair(mode, *names)
    assert [one.name for one in pairing.samples] == ["x"]
    used = {pairing.samples[0].target, pairing.samples[0].caption}
    assert pairing.skipped.keys() == set(names) - used


@pytest.mark.parametrize(
    ("mode", "name", "advice"),
    [
        ("t2a", "a.wav.txt", "not read as the caption of a.wav: rename it to a.txt"),
        ("t2a", "a.txt.txt", "not read as the caption of a.wav: rename it to a.txt"),
        ("t2a", "A.caption.txt", "not read as the caption of a.wav: rename it to a.txt"),
        ("t2a", "text/a.caption", "not read as the caption of a.wav: rename it to a.txt"),
        ("t2a", "a.rtf", "not read as the caption of a.wav: save its text, as plain text, as a.txt"),
        ("t2a", "a.json", "not read as the caption of a.wav: save its text, as plain text, as a.txt"),
        ("t2a", "b.wav.txt", "not read: the caption of b.wav is b.txt"),
        ("t2a", "c.txt", "a caption without a clip: no clip that is used has its name"),
        ("t2a", "a.png", "not used by this mode, which takes .wav"),
        ("a2a", "x_start.txt", "not read as the caption of x_end.wav: rename it to x.txt"),
        ("a2a", "x_end.wav.txt", "not read as the caption of x_end.wav: rename it to x.txt"),
        ("audio-inpaint", "a.caption", "not read as the caption of a.wav: rename it to a.txt"),
    ],
)
def test_a_caption_that_misses_its_name_is_told_the_right_one(mode, name, advice):
    given = {
        "t2a": ["a.wav", "b.wav", "b.txt"],
        "a2a": ["x_start.wav", "x_end.wav"],
        "audio-inpaint": ["a.wav", "a_mask.json"],
    }[mode]
    assert pair(mode, *given, name).skipped[name].startswith(advice)


def test_tables_of_captions_are_neither_samples_nor_skipped():
    pairing = pair("t2a", "a.wav", "metadata.csv", "sub/Metadata.jsonl", "other.csv")
    assert pairing.caption_tables == ("metadata.csv", "sub/Metadata.jsonl")
    assert pairing.skipped.keys() == {"other.csv"}


def test_videos_and_no_images():
    pairing = pair("v2a", "a.mp4", "a.txt", "b.MOV", "cover.jpg")
    assert [one.target for one in pairing.samples] == ["a.mp4", "b.MOV"]
    assert "cover.jpg" in pairing.skipped
    with pytest.raises(InputError, match=r"these are images.*a\.png"):
        pair("v2a", "a.png", "b.png", "a.txt")


@pytest.mark.parametrize(
    ("text", "spans", "notes"),
    [
        ("[[1, 2]]", ((1, 2),), []),
        ("[[0, 5]]", ((0, 5),), []),
        ("[[0, 5.04]]", ((0, 5),), []),
        ("[[1.5, 2.0], [3.5, 9]]", ((1.5, 2.0), (3.5, 5.0)), ["[3.5, 9] is cut to [3.5, 5]: the clip is 5 s long"]),
        ("[[6, 7], [1, 2]]", ((1, 2),), ["[6, 7] is ignored: it lies after the end of the clip, which is 5 s long"]),
        ("[[2, 2], [1, 2]]", ((1, 2),), ["[2, 2] is ignored: its end must be after its start, by 0.001 s"]),
        ("[[3, 2], [1, 2]]", ((1, 2),), ["[3, 2] is ignored: its end must be after its start, by 0.001 s"]),
        ("[[-1, 2]]", ((0, 2),), ["[-1, 2] is cut to [0, 2]: the clip is 5 s long"]),
        (
            "[[-2, -1], [1, 2]]",
            ((1, 2),),
            ["[-2, -1] is ignored: it lies before the start of the clip"],
        ),
        ("[[5, 6]]", (), ["[5, 6] is ignored: it lies after the end of the clip, which is 5 s long"]),
    ],
)
def test_masks(text, spans, notes):
    assert usable_ranges(parse_mask(text), 5.0) == (spans, notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[[1, 2]", "not JSON"),
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ("[1, 2]", "1 is not a range"),
        ('[["1", "2"]]', "not a range"),
        ("[[1, null]]", "not a range"),
        ("[[true, 2]]", "not a range"),
        ("[[NaN, 2]]", "not finite"),
        ("[[1, Infinity]]", "not finite"),
    ],
)
def test_masks_that_are_malformed(text, words):
    with pytest.raises(ValueError, match=words):
        parse_mask(text)
