"""The page of a run: there while it goes, and with a verdict that claims what was measured."""

from __future__ import annotations

import json
import math
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sonolora.data.clips import Clip
from sonolora.data.report import Report
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_wav
from sonolora.modes import MODES
from sonolora.runs.artifacts import RECORD, REPORT_PAGE, Preview, RunArtifacts
from sonolora.runs.report.curves import Series, draw_curves
from sonolora.runs.report.preview_sources import PreviewSource, put_sources
from sonolora.runs.report.report_page import put_clip, update_page, write_report
from sonolora.runs.report.verdict import EVALUATION, FINISH, verdict

REQUEST = {"training_data_url": "my clips.zip", "rank": 16, "number_of_steps": 200, "learning_rate": 1e-3}


def tone(amplitude: float = 0.5, rate: int = 16_000) -> Waveform:
    time = np.arange(rate) / rate
    return Waveform(np.tile(amplitude * np.sin(2 * np.pi * 440 * time), (2, 1)).astype(np.float32), rate)


@pytest.fixture
def run(tmp_path: Path) -> RunArtifacts:
    """With two evaluations, of which the second is the last."""
    artifacts = RunArtifacts(tmp_path / "my run")
    artifacts.folder.mkdir()
    record = {"sonolora_version": "1", "mode": "t2a", "request": REQUEST, "settings": {"base": "tiny"}}
    artifacts.put_json(RECORD, {**record, "base_fingerprint": "0"})
    report = Report()
    report.used("bell.wav")
    write_report(artifacts, report, [put_clip(artifacts, 1, Clip("bell", "a bell", tone()))], MODES["t2a"])
    put_sources(artifacts, [PreviewSource(1, "bell", True, None, "report/0001.wav")])
    artifacts.begin_metrics(0)
    for step, loss in ((0, 0.5), (100, 0.4)):
        artifacts.add_metrics(step, {"train_eval_loss": loss})
        preview = Preview(step, 1, "a bell", 42, "lora" if step else "base")
        write = partial(write_wav, waveform=tone(0.05, 48_000))
        artifacts.put_preview(preview, write, write)
    return artifacts


def evaluated(mean: float, low: float, high: float, **more) -> dict:
    change = {name: math.log1p(value / 0.4) for name, value in (("mean", mean), ("low", low), ("high", high))}
    held_out = {"loss": 0.4 + mean, "base": 0.4, "change": change}
    return {"held_out": {"clips": ["a", "b"]}, "evaluations": [{"step": 200, "held_out": held_out}], **more}


def test_the_page_grows_while_the_run_goes(run: RunArtifacts) -> None:
    update_page(run)
    html = run.path(REPORT_PAGE).read_text()
    assert "step 100 of 200" in html and "location.reload" in html
    assert "sonolora train --resume" in html
    assert html.index("before: the base") < html.index("after 100 steps") < html.index("real: bell")
    run.put_json(FINISH, {"seconds": 60.0, "moved": 0.5})
    update_page(run)
    html = run.path(REPORT_PAGE).read_text()
    assert "finished" in html and "location.reload" not in html
    assert "its previews are 50 % nearer by timbre and rhythm" in html  # one figure, as earlier versions kept it


def test_players_are_as_loud_as_the_real_sound_and_files_stay(run: RunArtifacts) -> None:
    update_page(run)
    html = run.path(REPORT_PAGE).read_text()
    assert "after 100 steps (20 dB louder than its file)" in html
    shown = decode_audio(run.path("report/as-loud-previews-step-000100-1.wav")).waveform
    assert np.abs(shown.samples).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(decode_audio(run.path("previews/step-000100-1.wav")).waveform.samples).max() < 0.06


def test_what_to_try_next_keeps_the_settings_of_the_run(run: RunArtifacts) -> None:
    record = json.loads(run.path(RECORD).read_text())
    settings = {"base": "tiny", "held_out": 0, "preserve": 0.5, "block_offload": True, "seed": 42, "of_old": 3}
    settings["sigma_density"] = MODES["t2a"].sigma_density
    run.put_json(RECORD, {**record, "settings": settings})
    run.put_json(EVALUATION, evaluated(-0.04, -0.06, -0.02))
    run.put_json(FINISH, {"seconds": 60.0, "moved": 0.5})
    run.add_metrics(200, {"train_eval_loss": 0.3})
    *_, (_, command) = verdict(run).commands
    assert " --held-out 0 --preserve 0.5 --block-offload --out " in command


def test_better_is_said_only_where_the_interval_says_so(run: RunArtifacts) -> None:
    run.put_json(EVALUATION, evaluated(-0.04, -0.06, -0.02))
    assert (
        "better than the base on 2 clips it was not trained on: loss 0.360 against 0.400, -10.0 %" in verdict(run).text
    )
    run.put_json(EVALUATION, evaluated(-0.04, -0.09, 0.01))
    assert "no difference to the base is certain yet" in verdict(run).text
    looked_often = evaluated(-0.04, -0.06, -0.02, status="open")
    looked_often["evaluations"][-1]["status"] = "open"
    run.put_json(EVALUATION, looked_often)
    assert "no difference to the base is certain yet" in verdict(run).text
    run.put_json(EVALUATION, evaluated(0.04, 0.02, 0.06))
    assert "worse than the base" in verdict(run).text
    run.path(EVALUATION).unlink()
    assert "-20.0 %" in verdict(run).text and "does not tell learning from memorising" in verdict(run).text


@pytest.mark.parametrize(
    ("status", "effect", "changed"),
    [
        ("learning", "healthy", ("--number-of-steps", "400")),
        ("memorising", "healthy", ("--number-of-steps", "100")),
        ("worse", "healthy", ("--learning-rate", "0.00025")),
        ("plateau", "weak", ("--learning-rate", "0.002")),
        ("plateau", "trained too far", ("--learning-rate", "0.0005")),
        ("plateau", "healthy", ("--rank", "32")),
    ],
)
def test_what_to_try_next_follows_from_the_state(run: RunArtifacts, status: str, effect: str, changed) -> None:
    run.add_metrics(200, {"train_eval_loss": 0.4})
    run.put_json(EVALUATION, evaluated(-0.04, -0.06, -0.02, status=status, effect={"verdict": effect}))
    (_, use), (_, again) = verdict(run).commands
    assert shlex.split(use)[:3] == ["sonolora", "generate", "t2a"] and "a bell" in shlex.split(use)
    words = shlex.split(again)
    assert words[:4] == ["sonolora", "train", "t2a", "my clips.zip"]
    assert words[words.index(changed[0]) + 1] == changed[1]


def test_curves_have_an_interval_and_escape_names() -> None:
    points = [(0.0, 0.5), (100.0, 0.4)]
    svg = draw_curves([Series("<b>", "held-out", points, [(0, 0.4, 0.6), (100, 0.3, 0.5)])], "Losses")
    assert svg.count("<polygon") == 1 and "<b>" not in svg and "&lt;b&gt;" in svg
    assert draw_curves([Series("one", "base", [(0.0, 0.5)])], "Losses") == ""


def test_a_folder_of_an_earlier_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({}))
    update_page(RunArtifacts(tmp_path))
    assert not (tmp_path / REPORT_PAGE).exists()
