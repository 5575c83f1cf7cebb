"""Clips that are held out of a run: not trained on, and named in everything that the run makes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from run_support import StopsAt, begin
from safetensors.torch import load_file

from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.errors import InputError
from sonolora.data.prepared import Prepared
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.media.audio import decode_audio
from sonolora.planning.run_settings import RunSettings
from sonolora.runs import train as train_module
from sonolora.runs.artifacts import BEST, PREPARED, REPORT, RunArtifacts
from sonolora.runs.evaluation import evaluation as evaluation_module
from sonolora.runs.resume import resume
from sonolora.training.validation import grid_losses


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


HELD_OUT = {"held_out": 2, "evaluate_every": 2}


@pytest.fixture(scope="module")
def evaluated(short_body, settings, tmp_path_factory):
    """The folder of a run of two clips with two more held out, evaluated at every second of its steps."""
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    begin("t2a", short_body, replace(settings, **HELD_OUT), folder)
    return folder


def test_evaluations_are_kept_as_json_and_as_metrics(evaluated):
    artifacts = RunArtifacts(evaluated)
    evaluation = artifacts.evaluation()
    assert [one["step"] for one in evaluation["evaluations"]] == [0, 2, 4, 6, 8, 10, 12]
    assert (evaluation["step"], evaluation["steps"], evaluation["looks"]) == (12, 12, 6)
    assert (evaluation["stopped_early"], evaluation["held_out"]["recordings"]) == (False, 2)
    first, *_, last = evaluation["evaluations"]
    assert first["held_out"]["difference"] == {"mean": 0, "low": 0, "high": 0} and first["status"] is None
    for part in (last["training"], last["held_out"]):
        assert part["difference"]["mean"] == pytest.approx(part["loss"] - part["base"], abs=1e-6)
        assert part["difference"]["low"] < part["difference"]["mean"] < part["difference"]["high"]
        assert list(part["by_sigma"]) == ["0.125", "0.375", "0.625", "0.875"]
        assert part["loss"] < part["base"]
    lines = [line for line in artifacts.metrics() if "train_eval_loss" in line]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8, 10, 12]
    assert lines[-1]["held_out_loss"] == last["held_out"]["loss"] and lines[-1]["status"] == evaluation["status"]
    held_out = set(evaluation["held_out"]["clips"])
    assert {row["name"] for row in evaluation["clips"] if row["held_out"]} == held_out
    assert len(evaluation["clips"]) == 4 and evaluation["clips_measured"] == "all 2 training clips"
    effect = evaluation["effect"]
    assert effect["measured_on"] == "held-out clips" and 0 < effect["change"] < 5
    assert set(effect["by_part"]) == {"audio self-attention", "audio attention to text", "audio feed-forward"}


def test_evaluating_changes_nothing_of_the_lora(evaluated, short_body, settings, tmp_path):
    once = begin("t2a", short_body, replace(settings, held_out=2, preview_every=1000), tmp_path / "once")
    assert load_file(once).keys() == load_file(evaluated / "lora.safetensors").keys()
    assert once.read_bytes() == (evaluated / "lora.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [5, 8])
def test_stopped_and_resumed_it_evaluates_alike(evaluated, short_body, settings, silent, tmp_path, stop):
    stops = StopsAt(step=stop)
    with pytest.raises(InterruptedRunError):
        begin("t2a", short_body, replace(settings, **HELD_OUT), tmp_path / "out", stops, stops)
    resume(tmp_path / "out", silent)
    resumed = RunArtifacts(tmp_path / "out")
    assert resumed.evaluation() == RunArtifacts(evaluated).evaluation()
    assert [line for line in resumed.metrics() if "status" in line] == [
        line for line in RunArtifacts(evaluated).metrics() if "status" in line
    ]
    assert resumed.path("lora.safetensors").read_bytes() == (evaluated / "lora.safetensors").read_bytes()


@pytest.fixture
def falling_then_rising(monkeypatch):
    """Held-out losses that are lowest at step 4, and clearly so."""

    def losses(model, examples, device, **options):
        found = grid_losses(model, examples, device, **options)
        if not examples or examples[0].latents_BTC.shape[0] != 1 or "alternate" not in options:
            return found
        step = counted["step"] = counted["step"] + 1
        return 0 * found + 1 + 0.1 * abs((step - 1) // 2 - 2)

    counted = {"step": -1}
    monkeypatch.setattr(evaluation_module, "grid_losses", losses)


@pytest.mark.usefixtures("falling_then_rising")
def test_the_best_state_is_kept_and_patience_ends_the_run(short_body, settings, tmp_path):
    out = tmp_path / "out"
    begin("t2a", short_body, replace(settings, **HELD_OUT, stop_early=True, patience=2, keep="best"), out)
    artifacts = RunArtifacts(out)
    evaluation = artifacts.evaluation()
    assert evaluation["stopped_early"] and (evaluation["step"], evaluation["best"]["step"]) == (8, 4)
    assert evaluation["best"]["clear"] and evaluation["best"]["file"] == BEST in artifacts
    assert artifacts.is_finished()
    best, kept = (load_file(out / name) for name in (BEST, "lora.safetensors"))
    assert all(torch.equal(best[name], kept[name]) for name in best)
    metadata = Checkpoint.open(out / BEST).metadata
    assert metadata["best_step"] == metadata["steps"] == "4"


@pytest.mark.usefixtures("falling_then_rising")
def test_the_best_state_survives_a_stop(short_body, settings, silent, tmp_path):
    stops = StopsAt(step=10)
    with pytest.raises(InterruptedRunError):
        begin("t2a", short_body, replace(settings, **HELD_OUT), tmp_path / "out", stops, stops)
    artifacts = RunArtifacts(tmp_path / "out")
    before = artifacts.path(BEST).read_bytes()
    artifacts.remove(BEST)
    resume(tmp_path / "out", silent)
    assert artifacts.path(BEST).read_bytes() == before


def test_a_run_that_keeps_the_base_resumes_exactly_and_says_so(short_body, settings, silent, tmp_path):
    chosen = replace(settings, preserve=0.5, preview_every=1000)
    whole = begin("t2a", short_body, chosen, tmp_path / "whole")
    stops = StopsAt(step=5)
    with pytest.raises(InterruptedRunError):
        begin("t2a", short_body, chosen, tmp_path / "out", stops, stops)
    assert resume(tmp_path / "out", silent).read_bytes() == whole.read_bytes()
    assert Checkpoint.open(whole).metadata["preserve"] == "0.5"
    lines = [line for line in RunArtifacts(tmp_path / "whole").metrics() if "preservation_loss" in line]
    assert lines and all(line["preservation_loss"] < line["loss"] for line in lines)
    with pytest.raises(InputError, match="preserve: must be below 1"):
        RunSettings(preserve=1)


@pytest.mark.slow
def test_previews_are_compared_with_all_clips_at_strengths_and_with_another_prompt(short_body, settings, tmp_path):
    out, prompt = tmp_path / "out", "a piano in another room"
    chosen = replace(
        settings, held_out=1, own_previews=1, preview_every=1000, preview_strengths="0.5,1", preview_leak=prompt
    )
    begin("t2a", short_body, chosen, out)
    artifacts = RunArtifacts(out)
    evaluation = artifacts.evaluation()
    one, leak = evaluation["copies"]
    assert one["training"]["clip"] in {row["name"] for row in evaluation["clips"] if not row["held_out"]}
    assert one["held_out"]["clip"] == evaluation["held_out"]["clips"][0] and leak["prompt"] == prompt
    assert 0 <= one["training"]["likeness"] <= 1 and one["copy"] is False
    new = evaluation["likeness_of_new_sounds"]
    assert new["of"] == "held-out clips" and len(new["values"]) == 1
    last = [preview for preview in artifacts.previews() if preview.step == 12]
    assert [preview.prompt for preview in last] == [one["prompt"], prompt]
    names = artifacts.previews()[0].sound, last[0].at_strength("0.5"), last[0].sound
    base, half, whole = (decode_audio(artifacts.path(name)).waveform.samples for name in names)
    assert 0 < np.abs(half - base).mean() < np.abs(whole - base).mean()
    with Image.open(artifacts.path(last[0].at_strength("all").replace(".wav", ".png"))) as picture:
        assert picture.height > 800
    assert "leak" in json.loads(artifacts.path("finish.json").read_bytes())
    page = artifacts.path("report.html").read_text()
    assert "the LoRA at strength 0.5" in page and "nothing to do with the data" in page


@pytest.mark.parametrize("wrong", ["0.5,loud", "0", "5"])
def test_strengths_are_numbers_in_a_range(wrong):
    with pytest.raises(InputError, match="preview_strengths: must be"):
        RunSettings(preview_strengths=wrong)
    assert RunSettings(preview_strengths="1.25, 0.5,1").other_strengths == (0.5, 1.25)
