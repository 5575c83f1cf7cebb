"""Metrics that also go to other programs: what they get, by the real packages where they are installed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from run_support import begin

from sonolora.core.errors import InputError, SonoloraError
from sonolora.planning.run_settings import LOG_TO, RunSettings
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.evaluation import metrics_sinks
from sonolora.runs.evaluation.metrics_sinks import SINKS, flat, open_sinks


def test_values_are_numbers_and_words_by_name():
    values = {
        "loss": 0.5,
        "by": {"0.125": 1.0, "0.5": None},
        "gap": [0.1, None, 0.2],
        "status": "learning",
        "none": None,
    }
    assert flat(values) == {"loss": 0.5, "by/0.125": 1.0, "gap/0": 0.1, "gap/2": 0.2, "status": "learning"}


class Sink:
    lines, closed = (), False

    def __init__(self, folder):
        self.folder, self.lines = folder, []
        Sink.last = self

    def log(self, step, values):
        self.lines.append((step, values))

    def close(self):
        self.closed = True


def test_every_line_of_a_run_goes_there(short_body, settings, tmp_path, monkeypatch):
    monkeypatch.setitem(SINKS, "tensorboard", Sink)
    begin("t2a", short_body, replace(settings, log_to="tensorboard"), tmp_path / "out")
    lines = RunArtifacts(tmp_path / "out").metrics()
    assert [step for step, _ in Sink.last.lines] == [line["step"] for line in lines]
    assert Sink.last.closed
    trained = [line for line in lines if "loss" in line]
    for line in trained:
        assert line["gradient_norm"] > 0 and 0 <= line["data_wait_share"] <= 1 and line["achieved_tflops"] > 0
    assert all(math.isfinite(value) for line in trained for value in line.values())


def test_unknown_names_and_missing_packages_are_errors(tmp_path, monkeypatch):
    assert set(SINKS) == set(LOG_TO)
    with pytest.raises(InputError, match="log_to: 'mlflow' is not one of tensorboard, wandb, trackio"):
        RunSettings(log_to="tensorboard,mlflow")

    def missing(name):
        raise ImportError(f"no module named {name}")

    monkeypatch.setattr(metrics_sinks.importlib, "import_module", missing)
    with pytest.raises(SonoloraError, match=r"pip install 'sonolora\[wandb\]'"), open_sinks("wandb", tmp_path):
        pass


@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_sinks("tensorboard", tmp_path) as sinks:
        for step in (10, 20):
            sinks[0].log(step, {"loss": 1 / step, "status": "learning"})
    events = EventAccumulator(str(tmp_path / metrics_sinks.TENSORBOARD_FOLDER))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [
        (10, pytest.approx(0.1)),
        (20, pytest.approx(0.05)),
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_weights_and_biases_keeps_an_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    with open_sinks("wandb", tmp_path) as sinks:
        for _ in range(2):  # lines of one step
            sinks[0].log(10, {"loss": 0.1, "status": "learning"})
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
