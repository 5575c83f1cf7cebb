"""Runs that are stopped or killed at any moment and continued: the result is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
from run_support import StopsAt, begin, eval_losses_of
from typer.testing import CliRunner

from sonolora.cli.main import app, main
from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.errors import CheckpointError, DamagedFileError, SonoloraError
from sonolora.runs.artifacts import PREPARED, RECORD, RunArtifacts
from sonolora.runs.resume import resume

pytestmark = pytest.mark.xdist_group("run")  # with test_start.py, whose run these are compared with


def train_in_child(body, out, *options):
    """The command, for as long as it takes to write a state."""
    request = out.with_name("request.json")
    request.write_text(json.dumps(body))
    command = [sys.executable, "-m", "sonolora", "train", "t2a", "--request", str(request), "--out", str(out), *options]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-*")):
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_killed_and_resumed_elsewhere_gives_the_same_file(body, settings, tmp_path):
    body = {**body, "number_of_steps": 100}
    options = ["--base", settings.base, "--device", "cpu", "--checkpoint-every", "10"]
    process = train_in_child(body, tmp_path / "out", *options)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "lora.safetensors").exists()
    # Elsewhere, with the data gone: the folder alone must be enough.
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert CliRunner().invoke(app, ["train", "--resume", str(moved)], catch_exceptions=False).exit_code == 0
    undisturbed = begin("t2a", body, replace(settings, preview_every=1000), tmp_path / "undisturbed")
    assert (moved / "lora.safetensors").read_bytes() == undisturbed.read_bytes()
    steps = [line["step"] for line in RunArtifacts(moved).metrics() if "loss" in line]
    assert steps == sorted(set(steps)), "no step is logged twice"


@pytest.fixture
def ctrl_c_at_the_first_state():
    """Sends SIGINT to this process as soon as there is a state in the folder of a run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    over = threading.Event()

    def press(out):
        while not list((out / "checkpoints").glob("step-*.safetensors")):
            if over.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor() as beside:
        yield partial(beside.submit, press)
        over.set()
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_a_state_and_says_how_to_continue(
    body, settings, tmp_path, monkeypatch, capsys, ctrl_c_at_the_first_state
):
    out, request = tmp_path / "out", tmp_path / "request.json"
    request.write_text(json.dumps({**body, "number_of_steps": 20000}))
    command = ["sonolora", "train", "t2a", "--request", str(request), "--out", str(out), "--base", settings.base]
    monkeypatch.setattr(sys, "argv", [*command, "--device", "cpu", "--checkpoint-every", "20"])
    ctrl_c_at_the_first_state(out)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    errors = capsys.readouterr().err
    assert f"--resume {out}" in errors
    newest = max((out / "checkpoints").iterdir())
    assert f"stopped at step {int(newest.stem.removeprefix('step-'))} of 20000" in errors


def test_a_stopped_run_resumes_from_its_step(body, settings, recorded, tmp_path):
    stops = StopsAt(step=10)
    with pytest.raises(InterruptedRunError, match="step 10 of 12"):
        begin("t2a", body, settings, tmp_path / "out", stops, stops)
    assert resume(tmp_path / "out", recorded).exists()
    assert "continuing from step 10" in recorded.messages


def test_stopped_in_every_phase_of_training_and_resumed_gives_the_same_files(
    finished, with_previews, settings, silent, tmp_path
):
    out, run = tmp_path / "out", partial(begin, "t2a", with_previews, settings, tmp_path / "out")
    for phase, step, at in (
        ("validating at step 0", 3, 0),
        ("training", 0, 0),
        ("validating at step 6", 6, 6),
        ("training", 12, 12),
        ("validating at step 12", 4, 12),
    ):
        stops = StopsAt(phase, step)
        with pytest.raises(InterruptedRunError, match=f"step {at} of 12"):
            run(stops, stops)
        run = partial(resume, out)
    run(silent)
    names = ["index.json", *(path.name for path in (finished / "previews").glob("*.wav"))]
    for name in ["lora.safetensors", "preview.wav", *(f"previews/{name}" for name in names)]:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    assert eval_losses_of(out) == eval_losses_of(finished)


def test_resuming_a_finished_run_changes_nothing(finished, silent):
    before = (finished / "lora.safetensors").read_bytes()
    resume(finished, silent)
    assert (finished / "lora.safetensors").read_bytes() == before


def test_resuming_nothing_is_an_error(silent, tmp_path):
    with pytest.raises(SonoloraError, match="holds no run"):
        resume(tmp_path, silent)


def test_resuming_with_a_changed_request_is_refused(body, settings, silent, tmp_path):
    stops = StopsAt()
    with pytest.raises(InterruptedRunError):
        begin("t2a", body, settings, tmp_path / "out", stops, stops)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    run["request"]["learning_rate"] = 0.5
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    with pytest.raises(CheckpointError, match="its settings is"):
        resume(tmp_path / "out", silent)


NEWER = {"sonolora_version": "9.9", "mode": "t2a", "request": {}, "settings": {"magic": 1}, "base_fingerprint": "0"}


@pytest.mark.parametrize(("text", "words"), [("{", "is damaged"), (json.dumps(NEWER), "by Sonolora 9.9")])
def test_a_run_that_cannot_be_read_is_an_error_with_the_reason(tmp_path, silent, text, words):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SonoloraError, match=words):
        resume(tmp_path, silent)


@pytest.fixture
def stopped(body, settings, tmp_path):
    """A run with a state of step 8 alone."""
    stops = StopsAt(step=10)
    with pytest.raises(InterruptedRunError):
        begin("t2a", body, settings, tmp_path / "stopped", stops, stops)
    artifacts = RunArtifacts(tmp_path / "stopped")
    artifacts.remove("checkpoints/step-000010.safetensors")
    return artifacts


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_damaged_newest_state_is_set_aside_for_the_one_before(finished, body, settings, recorded, tmp_path):
    stops = StopsAt(step=10)
    with pytest.raises(InterruptedRunError):
        begin("t2a", body, settings, tmp_path / "run", stops, stops)
    artifacts = RunArtifacts(tmp_path / "run")
    (older, _), (newer, name) = artifacts.states()
    assert (older, newer) == (8, 10)
    flip(artifacts.path(name), -100)
    lora = resume(tmp_path / "run", recorded)
    (warning,) = recorded.warnings
    assert "step-000010.safetensors is damaged" in warning and "set aside" in warning
    assert "continuing from step 8" in recorded.messages
    assert lora.read_bytes() == (finished / "lora.safetensors").read_bytes()
    assert f"{name}.damaged" in artifacts


def test_a_damaged_only_state_is_an_error_with_advice(stopped, silent):
    ((_, name),) = stopped.states()
    flip(stopped.path(name), -100)
    with pytest.raises(DamagedFileError, match=r"step-000008.safetensors is damaged.* remove it"):
        resume(stopped.folder, silent)
    stopped.remove(name)
    assert resume(stopped.folder, silent).exists()


@pytest.mark.parametrize("at", [40, -100])
def test_damaged_data_is_an_error(stopped, silent, at):
    flip(stopped.path(PREPARED), at)
    with pytest.raises(DamagedFileError, match=r"prepared.safetensors is damaged.* start it again"):
        resume(stopped.folder, silent)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"request": {"rank": "many"}}, "run.json is damaged: request: .*rank"),
        ({"settings": {"seed": "x"}}, "run.json is damaged: settings.seed: Input should be a valid integer"),
        ({"settings": {"keep_checkpoints": 0}}, "keep_checkpoints: must be at least 1"),
        ({"mode": "x2y"}, "'x2y' is not a mode"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_what_is_wrong(stopped, silent, change, words):
    record = json.loads(stopped.path(RECORD).read_text())
    for name, value in change.items():
        record[name] = value if isinstance(value, str) else {**record[name], **value}
    stopped.path(RECORD).write_text(json.dumps(record))
    with pytest.raises(SonoloraError, match=words):
        resume(stopped.folder, silent)
