"""The request models against the published tables, typed in by hand."""

from __future__ import annotations

import pytest

from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.request import parse

URL = {"training_data_url": "https://example.com/x.zip"}
# field: (default, least, greatest) or (default, choices) or (default,)
COMMON = {
    "rank": (32, {8, 16, 32, 64, 128}),
    "number_of_steps": (2000, 100, 20000),
    "learning_rate": (0.0002, 0.000001, 1),
    "number_of_frames": (89, 9, 121),
    "frame_rate": (24, 8, 60),
    "resolution": ("medium", {"low", "medium", "high"}),
    "aspect_ratio": ("1:1", {"16:9", "1:1", "9:16"}),
    "trigger_phrase": ("",),
    "auto_scale_input": (False,),
    "split_input_into_scenes": (True,),
    "split_input_duration_threshold": (30.0, 1.0, 60.0),
    "debug_dataset": (False,),
    "validation": ([],),
    "validation_number_of_frames": (89, 9, 121),
    "validation_frame_rate": (24, 8, 60),
    "validation_resolution": ("high", {"low", "medium", "high"}),
    "validation_aspect_ratio": ("1:1", {"16:9", "1:1", "9:16"}),
    "stg_scale": (1.0, 0.0, 3.0),
}
AUDIO = {
    "audio_duration_seconds": (5.0, 0.5, 60.0),
    "audio_normalize": (True,),
    "audio_preserve_pitch": (True,),
}
EXTEND = {"conditioning_seconds": (1.0, 0.1, 30.0)}
NO_SPLIT = {"split_input_into_scenes": (False,)}
TABLES = {
    "t2a": {**COMMON, **AUDIO},
    "a2a": {**COMMON, **AUDIO, **NO_SPLIT},
    "v2a": {**COMMON, **NO_SPLIT},
    "audio-inpaint": {**COMMON, **AUDIO},
    "audio-extend-suffix": {**COMMON, **AUDIO, **EXTEND},
    "audio-extend-prefix": {**COMMON, **AUDIO, **EXTEND},
}
ENTRIES = {
    "t2a": {"prompt": "p"},
    "a2a": {"prompt": "p", "reference_audio_url": "r.wav"},
    "v2a": {"prompt": "p", "video_url": "v.mp4"},
    "audio-inpaint": {"prompt": "p", "audio_url": "a.wav", "time_ranges": [[1.0, 2.0]]},
    "audio-extend-suffix": {"prompt": "p", "audio_url": "a.wav"},
    "audio-extend-prefix": {"prompt": "p", "audio_url": "a.wav"},
}
RANGES = [(mode, name, rule) for mode, table in TABLES.items() for name, rule in table.items() if len(rule) == 3]
CHOICES = [(mode, name, rule) for mode, table in TABLES.items() for name, rule in table.items() if len(rule) == 2]


def ask(mode, **fields):
    # Extension needs a clip that is longer than what is given; the least clip length is not.
    if mode.startswith("audio-extend") and fields.get("audio_duration_seconds") == 0.5:
        fields["conditioning_seconds"] = 0.1
    return parse(MODES[mode].request, {**URL, **fields})


@pytest.mark.parametrize("mode", TABLES)
def test_fields_and_defaults(mode):
    request = ask(mode).model_dump()
    assert request.pop("training_data_url") == URL["training_data_url"]
    assert "silence" in request.pop("validation_negative_prompt")
    assert request == {name: rule[0] for name, rule in TABLES[mode].items()}


@pytest.mark.parametrize(("mode", "name", "rule"), RANGES)
def test_ranges(mode, name, rule):
    _, least, greatest = rule
    for value in (least, greatest):
        ask(mode, **{"audio_duration_seconds": 60, name: value} if name == "conditioning_seconds" else {name: value})
    for value, fault in ((least - 1, "greater_than_equal"), (greatest + 1, "less_than_equal")):
        with pytest.raises(InputError) as caught:
            ask(mode, **{name: value})
        (item,) = caught.value.items
        assert item.loc == ("body", name)
        assert item.type == fault
        assert str(value) in str(item)


@pytest.mark.parametrize(("mode", "name", "rule"), CHOICES)
def test_choices(mode, name, rule):
    for value in rule[1]:
        assert getattr(ask(mode, **{name: value}), name) == value
    with pytest.raises(InputError) as caught:
        ask(mode, **{name: 33})
    assert caught.value.items[0].type == "literal_error"


def test_missing_data_is_named():
    with pytest.raises(InputError) as caught:
        parse(MODES["t2a"].request, {})
    assert caught.value.items[0].as_wire() == {
        "loc": ["body", "training_data_url"], "msg": "Field required", "type": "missing",
    }  # fmt: skip


def test_every_fault_is_reported_at_once():
    with pytest.raises(InputError) as caught:
        ask("t2a", rank=9, stg_scale=5, number_of_steps="many")
    assert {item.loc[1] for item in caught.value.items} == {"rank", "stg_scale", "number_of_steps"}


def test_rank_may_be_text():
    assert ask("t2a", rank="32").rank == 32


@pytest.mark.parametrize(("given", "snapped"), [(9, 9), (16, 9), (17, 17), (120, 113), (121, 121)])
def test_frame_counts_snap_down(given, snapped):
    request = ask("t2a", number_of_frames=given, validation_number_of_frames=given)
    assert (request.number_of_frames, request.validation_number_of_frames) == (snapped, snapped)


def test_a_saved_request_still_knows_what_it_did_not_say():
    """The base's own strength of guidance counts where the request names none, also when a run goes on."""
    request = MODES["t2a"].request
    for fields, asked in (({}, None), ({"stg_scale": 1.0}, 1.0)):
        sent = ask("t2a", rank=16, **fields)
        again = parse(request, sent.saved())
        assert again == sent
        assert again.requested_stg_scale == sent.requested_stg_scale == asked


def test_unknown_fields_are_ignored():
    assert not hasattr(ask("t2a", colour="red"), "colour")


def test_at_most_two_previews_each_with_a_prompt():
    assert len(ask("t2a", validation=[{"prompt": "a"}, {"prompt": "b"}]).validation) == 2
    with pytest.raises(InputError) as caught:
        ask("t2a", validation=[{"prompt": "a"}] * 3)
    assert caught.value.items[0].type == "too_long"
    with pytest.raises(InputError) as caught:
        ask("t2a", validation=[{}])
    assert caught.value.items[0].loc == ("body", "validation", 0, "prompt")


@pytest.mark.parametrize(
    ("validation", "loc", "type", "msg"),
    [
        (None, [], "list_type", "Input should be a valid array"),
        ("x", [], "list_type", "Input should be a valid array"),
        ({"prompt": "a"}, [], "list_type", "Input should be a valid array"),
        ([None], [0], "model_type", "Input should be an object"),
        (["x"], [0], "model_type", "Input should be an object"),
        ([{"prompt": None}], [0, "prompt"], "string_type", "Input should be a valid string"),
    ],
)
def test_faults_have_the_words_of_json(validation, loc, type, msg):
    with pytest.raises(InputError) as caught:
        ask("t2a", validation=validation)
    (fault,) = caught.value.detail()
    found = None if loc[1:] else validation[0] if loc else validation
    assert fault == {"loc": ["body", "validation", *loc], "msg": msg, "type": type, "input": found}
    assert ("found null" in str(caught.value)) == (found is None)


@pytest.mark.parametrize("entry", [{}, {"prompt": 1}, None, [], "x"])
def test_long_lists_are_measured_and_not_read(entry):
    with pytest.raises(InputError) as caught:
        ask("t2a", validation=[entry] * 100_000)
    (fault,) = caught.value.detail()
    assert (fault["loc"], fault["type"]) == (["body", "validation"], "too_long")
    assert fault["ctx"] == {"field_type": "List", "max_length": 2, "actual_length": 100_000}
    assert len(fault["input"]) < 3000
    with pytest.raises(InputError) as caught:
        ask("audio-inpaint", validation=[{"prompt": "p", "audio_url": "a", "time_ranges": [entry] * 1001}])
    assert [item.loc for item in caught.value.items] == [("body", "validation", 0, "time_ranges")]


def test_details_are_few_and_say_how_many_there_are():
    ranges = [["a", "b"]] * 900
    with pytest.raises(InputError) as caught:
        ask("audio-inpaint", validation=[{"prompt": "p", "audio_url": "a", "time_ranges": ranges}])
    detail = caught.value.detail()
    assert len(detail) == 51
    assert detail[-1]["msg"] == "and 1,750 more errors"


@pytest.mark.parametrize(("seconds", "rate", "length"), [(5, 24, 5), (10, 24, 121 / 24), (1, 60, 1), (60, 8, 15.125)])
def test_preview_length_is_capped_at_121_frames(seconds, rate, length):
    request = ask("t2a", audio_duration_seconds=seconds, validation_frame_rate=rate)
    assert request.preview_seconds == pytest.approx(length)


def test_infinity_is_not_a_number_of_seconds():
    with pytest.raises(InputError):
        ask("t2a", audio_duration_seconds=float("inf"))


def test_the_six_modes():
    assert MODES.keys() == TABLES.keys() == ENTRIES.keys()


@pytest.mark.parametrize("mode", ENTRIES)
def test_validation_entries(mode):
    entry = ENTRIES[mode]
    (spec,) = MODES[mode].previews(ask(mode, validation=[entry]))
    assert spec.prompt == "p"
    for missing in entry:
        with pytest.raises(InputError) as caught:
            ask(mode, validation=[{name: value for name, value in entry.items() if name != missing}])
        (item,) = caught.value.items
        assert item.loc == ("body", "validation", 0, missing)
        assert item.type == "missing"
    with pytest.raises(InputError) as caught:
        ask(mode, validation=[entry] * 3)
    assert caught.value.items[0].type == "too_long"


@pytest.mark.parametrize("mode", ["audio-extend-suffix", "audio-extend-prefix"])
@pytest.mark.parametrize(
    ("fields", "fine"),
    [
        ({"audio_duration_seconds": 5, "conditioning_seconds": 4.9}, True),
        ({"audio_duration_seconds": 5, "conditioning_seconds": 5}, False),
        ({"audio_duration_seconds": 5, "conditioning_seconds": 6}, False),
        ({"audio_duration_seconds": 1, "conditioning_seconds": 0.99999999}, False),  # no frame is left
        # The preview is capped at 121 frames: 10 s at 24 a second leave 5.04 s.
        ({"audio_duration_seconds": 10, "conditioning_seconds": 6}, True),
        (
            {
                "audio_duration_seconds": 10,
                "conditioning_seconds": 6,
                "validation": [{"prompt": "p", "audio_url": "a"}],
            },
            False,
        ),
        (
            {
                "audio_duration_seconds": 10,
                "conditioning_seconds": 5,
                "validation": [{"prompt": "p", "audio_url": "a"}],
            },
            True,
        ),
        (
            {
                "conditioning_seconds": 2.5,
                "validation_frame_rate": 60,
                "validation": [{"prompt": "p", "audio_url": "a"}],
            },
            False,
        ),
    ],
)
def test_something_must_be_left_to_generate(mode, fields, fine):
    if fine:
        ask(mode, **fields)
        return
    with pytest.raises(InputError, match="nothing is left to generate") as caught:
        ask(mode, **fields)
    assert caught.value.items[0].loc == ("body", "conditioning_seconds")


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([], "must be a list of"),
        ([[2.0, 1.0]], "its end must be after its start"),
        ([[1.0, 1.0]], "its end must be after its start"),
        ([[-1.0, 1.0]], "starts before 0 s"),
        ([[1.0]], "not a range"),
        ([[1.0, 2.0, 3.0]], "not a range"),
        ([[6.0, 7.0]], "no range lies inside"),
    ],
)
def test_ranges_of_a_preview_must_mark_something(ranges, words):
    entry = {"prompt": "p", "audio_url": "a.wav", "time_ranges": ranges}
    with pytest.raises(InputError, match=words) as caught:
        ask("audio-inpaint", validation=[entry])
    assert caught.value.items[0].loc == ("body", "validation", 0, "time_ranges")


def test_ranges_are_cut_to_the_preview():
    entry = {"prompt": "p", "audio_url": "a.wav", "time_ranges": [[4.0, 9.0], [7.0, 8.0]]}
    (spec,) = MODES["audio-inpaint"].previews(ask("audio-inpaint", validation=[entry]))
    assert spec.regenerate == ((4.0, 5.0),)


def test_backward_and_forward_keep_opposite_ends():
    spans = {mode: MODES[mode].regenerated(ask(mode)) for mode in ("audio-extend-suffix", "audio-extend-prefix")}
    assert spans == {"audio-extend-suffix": ((0.0, 4.0),), "audio-extend-prefix": ((1.0, 5.0),)}
