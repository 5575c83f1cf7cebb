"""Clips that are held out of a run: not trained on, and named in everything that the run makes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from run_support import begin

from sonolora.core.errors import InputError
from sonolora.data.prepared import Prepared
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.planning.run_settings import RunSettings
from sonolora.runs import train as train_module
from sonolora.runs.artifacts import PREPARED, REPORT, RunArtifacts


@pytest.fixture(scope="module")
def run(short_body, settings, tmp_path_factory):
    """The folder of a run of four clips, one held out."""
    folder = tmp_path_factory.mktemp("held-out") / "out"
    begin("t2a", short_body, replace(settings, held_out=1), folder)
    return folder


def test_what_is_held_out_is_named_in_the_report_and_the_lora(run):
    artifacts = RunArtifacts(run)
    report = json.loads(artifacts.path(REPORT).read_text())["held_out"]
    (name,) = report["clips"]
    assert report["note"] == f"held out of training: 1 of 4 clips: {name}"
    assert Checkpoint.open(run / "lora.safetensors").metadata["held_out"] == [name]


def test_it_is_not_trained_on(run, short_body, settings, tmp_path, monkeypatch):
    prepared = Prepared.load(run / PREPARED)
    (name,) = prepared.held_out.names
    assert len(prepared.names) == len(prepared.examples) == len(prepared.recordings) == 3
    assert name not in prepared.names and len(prepared.held_out.examples) == 1
    trained = []
    trainer = train_module.Trainer
    monkeypatch.setattr(
        train_module, "Trainer", lambda *args, **kwargs: (trained.extend(args[2]), trainer(*args, **kwargs))[1]
    )
    begin("t2a", short_body, replace(settings, held_out=0.25), tmp_path / "out")
    assert len(trained) == 3


def test_of_few_clips_none_is_held_out_and_a_sentence_says_so(finished, short_body, settings, recorded, tmp_path):
    report = json.loads((finished / REPORT).read_text())["held_out"]
    assert report["clips"] == [] and "there are fewer than 12" in report["note"]
    assert Prepared.load(finished / PREPARED).held_out.note == report["note"]
    with pytest.raises(InputError, match="held_out: must leave clips to train on"):
        begin("t2a", short_body, replace(settings, held_out=4), tmp_path / "out", recorded)


def test_a_number_of_clips_is_whole():
    with pytest.raises(InputError, match=r"held_out: must be a number of clips or a share below 1, not 2\.5"):
        RunSettings(held_out=2.5)
