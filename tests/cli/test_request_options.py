"""Request bodies from options, request files and JSON."""

from __future__ import annotations

import json

import pytest

from sonolora.cli.request_options import idle_options, preview_entries, request_body, request_options
from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.request import Body


def test_options_override_the_request_file(tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"training_data_url": "a.zip", "rank": 8, "validation": [{"prompt": "one"}]}))
    body = request_body({"rank": "16", "stg_scale": None}, None, [{"prompt": "two"}], file)
    assert body == {
        "training_data_url": "a.zip", "rank": "16", "validation": [{"prompt": "one"}, {"prompt": "two"}],
    }  # fmt: skip
    assert request_body({}, "b.zip", [], file)["training_data_url"] == "b.zip"


def test_validation_is_json_text_or_a_file(tmp_path):
    entries = [{"prompt": "a bell"}]
    (tmp_path / "v.json").write_text(json.dumps(entries))
    for given in (json.dumps(entries), str(tmp_path / "v.json")):
        assert request_body({"validation": given}, "x", [], None)["validation"] == entries
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json is not JSON"):
        request_body({"validation": str(tmp_path / "bad.json")}, "x", [], None)


@pytest.mark.parametrize("text", ["[{", "nowhere.json", "\0", "x" * 5000])
def test_what_is_neither_json_nor_a_file(text):
    with pytest.raises(InputError, match=r"validation: .* is neither JSON such as .* nor a readable file"):
        request_body({"validation": text}, "x", [], None)


def test_request_file_must_hold_an_object(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object, not a list"):
        request_body({}, "x", [], tmp_path / "list.json")


def test_prompts_beside_validation_that_is_no_list(tmp_path):
    file = tmp_path / "request.json"
    for entries, expected in (("null", [{"prompt": "x"}]), ('{"prompt": "y"}', {"prompt": "y"})):
        file.write_text(f'{{"training_data_url": "a.zip", "validation": {entries}}}')
        assert request_body({}, None, [{"prompt": "x"}], file)["validation"] == expected, (
            "refused with the rest of the request"
        )


def test_unknown_fields_of_a_request_file_are_warned_of(sonolora, tmp_path):
    (tmp_path / "request.json").write_text('{"training_data_url": "x.zip", "rank": 9, "number_of_stepz": 5}')
    for command in ("train", "estimate", "check"):
        done = sonolora(command, "t2a", "--request", tmp_path / "request.json", "--out", tmp_path / "out")
        assert done.code == 2
        assert "warning: unknown field number_of_stepz has no effect; did you mean number_of_steps?" in done.err


def test_fields_without_effect_are_hidden():
    options = request_options(MODES["t2a"].request)
    hidden = {name: annotation.__metadata__[0].hidden for name, (annotation, _) in options.items()}
    assert hidden["number_of_frames"] and not hidden["stg_scale"]
    assert "number_of_frames" in idle_options(MODES["t2a"].request)
    assert idle_options(Body) is None


def test_previews_of_files_are_for_modes_that_need_one(sonolora, tmp_path):
    page = {mode: sonolora("train", mode, "--help").out for mode in MODES}
    assert all("--preview-prompt" in page[mode] and "--no-previews" in page[mode] for mode in MODES)
    assert {mode for mode in MODES if "--preview-audio" in page[mode]} == set(MODES) - {"t2a", "v2a"}
    assert [mode for mode in MODES if "--preview-video" in page[mode]] == ["v2a"]
    assert [mode for mode in MODES if "--preview-gap" in page[mode]] == ["audio-inpaint"]
    done = sonolora("train", "a2a", tmp_path, "--out", tmp_path / "out", "--prompt", "a bell")
    assert (done.code, done.out) == (2, "")
    assert "prompt: previews of this mode are made from a file: add --preview-audio FILE" in done.err


def test_a_length_in_seconds_is_one_in_frames_where_the_mode_counts_frames(sonolora, tmp_path):
    assert request_body({"seconds": 3.0}, "x", [], None)["number_of_frames"] == 65  # of 72 at 24 a second, 8 k + 1
    assert request_body({"seconds": 3.0, "frame_rate": "25"}, "x", [], None)["number_of_frames"] == 73
    done = sonolora("check", "v2a", tmp_path, "--seconds", "0.1", "--out", tmp_path / "out")
    assert (done.code, done.err.split(":")[0]) == (2, "number_of_frames")


@pytest.mark.parametrize("mode", [name for name in MODES if name != "v2a"])
def test_the_length_of_a_clip_has_one_name_in_all_modes(sonolora, tmp_path, mode):
    done = sonolora("check", mode, tmp_path, "--seconds", "99", "--out", tmp_path / "out")
    assert (done.code, done.err.split(":")[0]) == (2, "audio_duration_seconds")


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--duration", "--seconds"),
        ("train", "--number-of-stepz", "--number-of-steps"),
        ("generate", "--strength", "--scale"),
        ("generate", "--output", "--out"),
    ],
)
def test_the_option_that_was_meant_is_suggested(sonolora, command, typed, meant):
    done = sonolora(command, "t2a", typed, "1")
    assert done.code == 2
    assert f"No such option: {typed} (Possible options: {meant})" in " ".join(done.err.split()), done.err


def test_what_nobody_can_have_meant_is_not_guessed(sonolora):
    assert "Possible" not in sonolora("train", "t2a", "--sausage", "1").err


def test_previews_need_no_json():
    entries = preview_entries(MODES["audio-inpaint"].request, ["a", "b"], ["1.wav", "2.wav"], ["0.8-1.4,2-2.5"])
    assert entries == [
        {"prompt": "a", "audio_url": "1.wav", "time_ranges": [[0.8, 1.4], [2.0, 2.5]]},
        {"prompt": "b", "audio_url": "2.wav", "time_ranges": [[0.8, 1.4], [2.0, 2.5]]},
    ]
    assert preview_entries(MODES["a2a"].request, ["a"], ["1.wav"], []) == [
        {"prompt": "a", "reference_audio_url": "1.wav"}
    ]
    assert preview_entries(MODES["v2a"].request, ["a"], ["1.mp4"], []) == [{"prompt": "a", "video_url": "1.mp4"}]
    assert preview_entries(MODES["t2a"].request, ["a", "b"], [], []) == [{"prompt": "a"}, {"prompt": "b"}]
    assert preview_entries(MODES["a2a"].request, [], [], []) == []


@pytest.mark.parametrize(
    ("mode", "prompts", "inputs", "gaps", "words"),
    [
        ("a2a", ["a"], [], [], "add --preview-audio FILE"),
        ("v2a", ["a"], [], [], "add --preview-video FILE"),
        ("a2a", [], ["1.wav"], [], "1 previews and 0 --preview-prompt"),
        ("audio-inpaint", ["a"], ["1.wav"], ["1,2"], "'1,2' is not START-END in seconds, such as 0.8-1.4"),
        ("audio-inpaint", ["a"], ["1.wav"], [], "0 --preview-gap"),
    ],
)
def test_previews_that_do_not_go_together_are_refused(mode, prompts, inputs, gaps, words):
    with pytest.raises(InputError, match=words):
        preview_entries(MODES[mode].request, prompts, inputs, gaps)
