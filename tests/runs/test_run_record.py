"""The identity of a run's states: the same whatever a later version adds, another for another run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.run_record import IDENTITY_VERSION, RunRecord


def new(mode="t2a", settings=None, **body):
    request = parse(MODES[mode].request, {"training_data_url": "a", "learning_rate": 1e-6, **body})
    settings = settings or RunSettings(sigma_density="matched")
    return RunRecord.new(mode, request.saved(), asdict(settings), "base")


def identity(record, dataset="data"):
    newest, *earlier = record.identities(dataset)
    assert newest["identity_version"] == IDENTITY_VERSION and not any("identity_version" in one for one in earlier)
    return newest


def test_it_comes_back_as_it_was():
    record = new("audio-inpaint", validation=[{"prompt": "é", "audio_url": "b", "time_ranges": [[0.5, 1]]}])
    assert RunRecord.parse(json.dumps(record.as_json(), indent=2).encode()) == record


def test_the_order_of_fields_does_not_count():
    record = new()
    turned = replace(record, request=dict(reversed(record.request.items())))
    assert identity(turned) == identity(record)


def test_what_a_later_version_adds_does_not_count():
    """A record that lacks a setting or a field which has come since keeps its identity."""
    old = replace(new(), settings={"seed": 42, "weights": "full", "sigma_density": "matched"})
    assert identity(old) == identity(replace(old, settings={**old.settings, "added_later": 1}))
    assert identity(old) != identity(replace(old, settings={**old.settings, "seed": 43}))


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 2e-6},
        {"rank": 8},
        {"trigger_phrase": "x"},
        {"settings": RunSettings(sigma_density="matched", seed=1)},
        {"settings": RunSettings(sigma_density="published")},
        {"settings": RunSettings(sigma_density="matched", weights="nf4")},
        {"settings": RunSettings(sigma_density="matched", compile=True)},
    ],
    ids=str,
)
def test_what_changes_the_result_changes_it(changed):
    assert identity(new(**changed)) != identity(new())


def test_base_and_data_are_part_of_it():
    assert identity(replace(new(), base_fingerprint="other")) != identity(new())
    assert identity(new(), "other") != identity(new())


@pytest.mark.parametrize("changed", [{"device": "cpu"}, {"gradient_checkpointing": True}, {"checkpoint_every": 7}])
def test_what_may_differ_when_a_run_is_continued_does_not_change_it(changed):
    assert identity(new(settings=RunSettings(sigma_density="matched", **changed))) == identity(new())


@pytest.mark.parametrize("body", [{}, {"stg_scale": 0.5}, {"validation": [{"prompt": "naïve"}]}])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_identity_of_version_0_1_follows_from_what_was_recorded(body, compiled):
    """There it was the request as pydantic dumps it; tests/runs/test_old_run.py has a folder that was written so."""
    request = parse(MODES["t2a"].request, {"training_data_url": "a", "learning_rate": 1e-6, **body})
    record = new(settings=RunSettings(sigma_density="matched", compile=compiled), **body)
    words = f"t2a {request.model_dump_json()} 42 1 matched joint full{' compiled' if compiled else ''}"
    assert record._version_1() == words
