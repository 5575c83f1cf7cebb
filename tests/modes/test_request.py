"""The request models against the published tables, typed in by hand."""

from __future__ import annotations

import pytest

from sonolora.errors import InputError
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
TABLES = {"t2a": {**COMMON, **AUDIO}}
RANGES = [(mode, name, rule) for mode, table in TABLES.items() for name, rule in table.items() if len(rule) == 3]
CHOICES = [(mode, name, rule) for mode, table in TABLES.items() for name, rule in table.items() if len(rule) == 2]


def ask(mode, **fields):
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
        ask(mode, **{name: value})
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


@pytest.mark.parametrize(("seconds", "rate", "length"), [(5, 24, 5), (10, 24, 121 / 24), (1, 60, 1), (60, 8, 15.125)])
def test_preview_length_is_capped_at_121_frames(seconds, rate, length):
    request = ask("t2a", audio_duration_seconds=seconds, validation_frame_rate=rate)
    assert request.preview_seconds == pytest.approx(length)


def test_infinity_is_not_a_number_of_seconds():
    with pytest.raises(InputError):
        ask("t2a", audio_duration_seconds=float("inf"))
