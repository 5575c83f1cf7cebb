"""How near the last previews are to the data, against how near the base's were."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sonolora.analysis.embeddings import LogMelSpace
from sonolora.data.clips import Clip
from sonolora.data.report import Report
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.modes import MODES
from sonolora.runs.artifacts import RECORD, Preview, RunArtifacts
from sonolora.runs.report import distances as module
from sonolora.runs.report.distances import preview_distances
from sonolora.runs.report.report_page import put_clip, write_report
from sonolora.runs.report.run_view import run_view
from sonolora.runs.report.verdict import FINISH, verdict

RATE = 16_000


def hiss(seed: int) -> Waveform:
    return Waveform(np.random.default_rng(seed).normal(0, 0.1, (2, RATE // 2)).astype(np.float32), RATE)


def tone(hertz: float) -> Waveform:
    time = np.arange(RATE // 2) / RATE
    return Waveform(np.tile(0.3 * np.sin(2 * np.pi * hertz * time), (2, 1)).astype(np.float32), RATE)


@pytest.fixture
def run(tmp_path: Path) -> RunArtifacts:
    """Six clips of noise; the base's previews are tones, the LoRA's are noise. The third preview is far from both."""
    artifacts = RunArtifacts(tmp_path / "run")
    artifacts.folder.mkdir()
    request = {"training_data_url": "clips.zip", "number_of_steps": 100}
    record = {"sonolora_version": "1", "mode": "t2a", "request": request, "settings": {}, "base_fingerprint": "0"}
    artifacts.put_json(RECORD, record)
    report = Report()
    shown = [put_clip(artifacts, number, Clip(f"clip{number}", "", hiss(number))) for number in range(1, 7)]
    for number in range(1, 7):
        report.used(f"clip{number}.wav")
    report.held_out = ("clip2", "clip6")
    write_report(artifacts, report, shown, MODES["t2a"])
    artifacts.begin_metrics(0)
    artifacts.add_metrics(100, {"loss": 0.5})
    for step in (0, 100):
        for number in (1, 2, 3):
            sound = hiss(50 + number) if step and number < 3 else tone(300 + 100 * number)
            write = partial(write_wav, waveform=sound)
            artifacts.put_preview(Preview(step, number, "", 42, "lora" if step else "base"), write, write)
    return artifacts


def test_previews_that_are_like_the_clips_are_clearly_nearer_in_both_spaces(run: RunArtifacts) -> None:
    found = preview_distances(run, pytest.fail, without={3})
    assert [one["name"] for one in found] == ["log_mel", "aisfx"]
    for one in found:
        assert one["clips"] == "6 of your clips", "two held-out ones are too few"
        assert one["moved"] > 0.8 and abs(one["lora"]) < 0.2 * one["base"]
        assert one["difference"]["mean"] == pytest.approx(one["lora"] - one["base"], abs=1e-4)
        assert one["difference"]["low"] <= one["difference"]["mean"] <= one["difference"]["high"] < 0
    unmoved = preview_distances(run, pytest.fail, without={1, 2})
    assert [one["moved"] for one in unmoved] == [0, 0]


def test_held_out_clips_alone_are_compared_with_where_there_are_enough(
    run: RunArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "embeddings", lambda _: [LogMelSpace()])
    report = json.loads(run.path("report.json").read_text())
    report["held_out"]["clips"] = ["clip1", "clip2", "clip4", "clip6"]
    run.put_json("report.json", report)
    assert {one["clips"] for one in preview_distances(run, pytest.fail)} == {"4 of your held-out clips"}


def test_a_space_that_fails_is_said_and_left_out(run: RunArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name, title = "broken", "by nothing"

        def __call__(self, sounds: object) -> None:
            raise RuntimeError(f"out of order: {sounds}")

    monkeypatch.setattr(module, "embeddings", lambda _: [Broken()])
    warnings: list[str] = []
    assert preview_distances(run, warnings.append) == []
    assert "out of order" in warnings[0]


def test_page_and_verdict_have_every_space(run: RunArtifacts) -> None:
    found = preview_distances(run, pytest.fail, without={3})
    found[0]["lora"], found[1]["lora"] = -0.1, 1.5
    run.put_json(FINISH, {"seconds": 1.0, "distances": found})
    text = verdict(run).text
    assert "Measured against 6 of your clips, its previews are" in text
    assert "% nearer by timbre and rhythm" in text and "% nearer in the learned space of aiSFX" in text
    view = run_view(run)
    assert view is not None
    facts = [value for name, value in view.facts if name.startswith("distance of previews")]
    assert len(facts) == 2
    assert facts[0].startswith("0 (as near as your clips are to one another); the base has ")
    assert facts[1].startswith(f"1.5; the base has {found[1]['base']:.3g} (")


def test_a_run_without_a_report_has_no_distances(tmp_path: Path) -> None:
    assert preview_distances(RunArtifacts(tmp_path), pytest.fail) == []
