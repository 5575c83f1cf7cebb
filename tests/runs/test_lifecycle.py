"""Whole runs on the embedded base: outputs, interruption, resuming, and bad input."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import wave
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from sonolora.core.atomic_files import OutputError
from sonolora.core.errors import CheckpointError, InputError, SonoloraError
from sonolora.core.progress import Silent
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning.run_settings import RunSettings
from sonolora.runs import train as train_module
from sonolora.runs.generate import GenerateSettings, generate
from sonolora.runs.lifecycle import InterruptedRunError, resume, start
from sonolora.training.metrics import read_metrics
from sonolora.training.trainer import Trainer

pytestmark = pytest.mark.xdist_group("run")  # one run is shared by many of these tests
SETTINGS = RunSettings(device="cpu", checkpoint_every=10, preview_every=60)


def begin(body, settings, folder, progress, stop=lambda: False):
    return start(T2A, parse(T2A.request, body), settings, folder, progress, stop)


class StopsAt(Silent):
    """Follows a run and, as `stop`, ends it at a phase or at a step that is told."""

    def __init__(self, phase="training", step=0):
        self.wanted, self.now = (phase, step), ("", 0)

    def phase(self, name, total):  # noqa: ARG002
        self.now = (name, 0)

    def advance(self, note="", *, to=None):  # noqa: ARG002
        self.now = (self.now[0], self.now[1] + 1 if to is None else to)

    def __call__(self):
        return self.now[0] == self.wanted[0] and self.now[1] >= self.wanted[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset):
    """One whole run with previews and the debug archive."""
    folder = tmp_path_factory.mktemp("run") / "out"
    body = {
        "training_data_url": str(dataset),
        "rank": 8,
        "number_of_steps": 100,
        "learning_rate": 0.002,
        "audio_duration_seconds": 0.5,
        "trigger_phrase": "t0ne",
        "validation": [{"prompt": "t0ne a tone, number 2"}, {"prompt": "t0ne a low tone"}],
        "debug_dataset": True,
    }
    begin(body, SETTINGS, folder, Silent())
    return folder


def frames_of(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (48000, 2, 2)
        return file.readframes(file.getnframes())


def test_folder_holds_everything_that_was_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "lora.safetensors", "config.json", "preview.wav", "previews", "metrics.jsonl", "report.json", "checkpoints",
        "debug_dataset.zip",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(".")], "nothing temporary stays"
    previews = sorted(path.name for path in (finished / "previews").iterdir())
    assert previews == sorted(
        f"step-{step:06d}-{number}{kind}" for step in (0, 60, 100) for number in (1, 2) for kind in (".wav", ".png")
    )


def test_lora_learned_something_and_says_what_it_is(finished):
    path = finished / "lora.safetensors"
    assert any(tensor.abs().max() > 0 for key, tensor in load_file(path).items() if "lora_B" in key)
    metadata = Checkpoint.open(path).metadata
    assert metadata["mode"] == "t2a"
    assert metadata["rank"] == metadata["alpha"] == "8"
    assert metadata["trigger_phrase"] == "t0ne"
    assert metadata["base"] == "tiny"
    assert metadata["license"].startswith("Apache-2.0"), "that of the base"
    config = json.loads((finished / "config.json").read_text())
    assert config["training_type"] == "t2a"
    assert config["trigger_phrase"] == "t0ne"
    assert config["request"]["number_of_steps"] == 100


def test_loss_on_the_fixed_grid_falls(finished):
    grid = [line["grid_loss"] for line in read_metrics(finished / "metrics.jsonl") if "grid_loss" in line]
    assert len(grid) == 3
    assert grid[2] < grid[1] < grid[0]


def test_preview_is_all_samples_with_a_short_silence(finished):
    whole = frames_of(finished / "preview.wav")
    first, second = (frames_of(finished / "previews" / f"step-000100-{number}.wav") for number in (1, 2))
    assert len(first) == len(second) == 24000 * 4, "half a second each"
    assert whole == first + bytes(24000 * 4) + second


def test_previews_change_with_training(finished):
    before, after = (frames_of(finished / "previews" / f"step-{step}-1.wav") for step in ("000000", "000100"))
    assert before != after


def test_generate_gives_the_samples_of_the_preview(finished, tmp_path):
    settings = GenerateSettings(finished / "lora.safetensors", device="cpu")
    generate(T2A, {"prompt": "t0ne a tone, number 2"}, settings, tmp_path / "new.wav", Silent())
    assert frames_of(tmp_path / "new.wav") == frames_of(finished / "previews" / "step-000100-1.wav")


def test_generate_without_lora_gives_the_base(finished, tmp_path):
    for name, lora, scale in (("base", None, 1.0), ("zero", finished / "lora.safetensors", 0.0)):
        settings = GenerateSettings(lora, scale, device="cpu")
        generate(T2A, {"prompt": "t0ne a tone, number 2", "seconds": 0.5}, settings, tmp_path / f"{name}.wav", Silent())
        assert frames_of(tmp_path / f"{name}.wav") == frames_of(finished / "previews" / "step-000000-1.wav")


def test_report_has_a_verdict_on_every_file(finished, dataset):
    files = {entry["file"]: entry for entry in json.loads((finished / "report.json").read_text())["files"]}
    assert files.keys() == {path.name for path in dataset.iterdir()}
    assert files["short.wav"]["status"] == "skipped"
    assert "0.200 s" in files["short.wav"]["detail"]
    assert files["clip0.wav"]["status"] == "fitted"
    assert files["clip0.txt"]["status"] == "used"


def test_killed_at_any_moment_and_resumed_gives_the_same_file(finished, body, tmp_path):
    body = {**body, "validation": [{"prompt": "t0ne a tone, number 2"}, {"prompt": "t0ne a low tone"}]}
    (tmp_path / "request.json").write_text(json.dumps(body))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sonolora", "train", "t2a", "--request", str(tmp_path / "request.json")]
    command += ["--out", str(out), "--device", "cpu", "--checkpoint-every", "10", "--preview-every", "60"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "step-000030.safetensors").exists():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / "lora.safetensors").exists()
    # Elsewhere, with the data gone: the folder alone must be enough.
    moved = out.rename(tmp_path / "moved")
    subprocess.run(
        [sys.executable, "-m", "sonolora", "train", "--resume", str(moved)],
        check=True, env=environment, capture_output=True, timeout=120,
    )  # fmt: skip
    for name in ("lora.safetensors", "preview.wav"):
        assert (moved / name).read_bytes() == (finished / name).read_bytes(), name
    steps = [line["step"] for line in read_metrics(moved / "metrics.jsonl") if "loss" in line]
    assert steps == sorted(set(steps)), "no step is logged twice"


def test_ctrl_c_saves_a_state_and_says_how_to_go_on(body, tmp_path):
    (tmp_path / "request.json").write_text(json.dumps({**body, "number_of_steps": 20000}))
    command = [sys.executable, "-m", "sonolora", "train", "t2a", "--request", str(tmp_path / "request.json")]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--checkpoint-every", "20"], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "checkpoints").glob("step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {tmp_path / 'out'}" in errors
    newest = max((tmp_path / "out" / "checkpoints").iterdir())
    assert f"stopped at step {int(newest.stem.removeprefix('step-'))} of 20000" in errors


def test_stopped_run_resumes_from_its_step(body, tmp_path):
    stops = StopsAt(step=20)
    with pytest.raises(InterruptedRunError, match="step 20 of 100"):
        begin(body, SETTINGS, tmp_path / "out", stops, stops)
    assert resume(tmp_path / "out", Silent()).exists()


@pytest.mark.slow
def test_stopped_in_every_phase_of_training_and_resumed_gives_the_same_files(finished, body, tmp_path):
    body = {**body, "validation": [{"prompt": "t0ne a tone, number 2"}, {"prompt": "t0ne a low tone"}]}
    out, run = tmp_path / "out", partial(begin, body, SETTINGS, tmp_path / "out")
    for phase, step, at in (
        ("listening at step 0", 3, 0),
        ("training", 0, 0),
        ("listening at step 60", 35, 60),
        ("training", 100, 100),
        ("listening at step 100", 40, 100),
    ):
        stops = StopsAt(phase, step)
        with pytest.raises(InterruptedRunError, match=f"step {at} of 100"):
            run(stops, stops)
        run = partial(resume, out)
    run(Silent())
    names = sorted(path.name for path in (finished / "previews").glob("*.wav"))
    for name in ["lora.safetensors", "preview.wav", *(f"previews/{name}" for name in names)]:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    grids = [
        [line for line in read_metrics(folder / "metrics.jsonl") if "grid_loss" in line] for folder in (out, finished)
    ]
    assert grids[0] == grids[1]


@pytest.mark.parametrize("phase", ["fetching the data", "reading and encoding the clips", "writing the debug archive"])
def test_stopped_before_training_leaves_nothing_to_resume(body, tmp_path, phase):
    stops = StopsAt(phase, 1 if phase.startswith("reading") else 0)
    with pytest.raises(InterruptedRunError, match="stopped before training began"):
        begin({**body, "debug_dataset": True}, SETTINGS, tmp_path / "out", stops, stops)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {"run.json", "prepared.safetensors", "debug_dataset.zip"} & left
    assert not [name for name in left if name.startswith(".")]


@pytest.mark.slow
def test_same_run_twice_gives_the_same_file(body, tmp_path):
    files = [begin(body, SETTINGS, tmp_path / name, Silent()).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    other = begin(body, RunSettings(device="cpu", seed=7), tmp_path / "c", Silent()).read_bytes()
    assert other != files[0]


def test_disk_that_takes_no_more_leaves_the_old_state_and_says_so(body, tmp_path, monkeypatch):
    real = train_module.save_state
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_up(*args, **options):
        path = real(*args, **options)
        # From now on the operating system refuses to write a file as large as a state.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return path

    monkeypatch.setattr(train_module, "save_state", fills_up)
    try:
        with pytest.raises(OutputError, match=r"step-000020.safetensors could not be written"):
            begin(body, SETTINGS, tmp_path / "out", Silent())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-000010.safetensors"]
    monkeypatch.setattr(train_module, "save_state", real)
    assert resume(tmp_path / "out", Silent()).exists()


def test_second_run_in_a_folder_is_refused(finished, body):
    with pytest.raises(SonoloraError, match="already holds a run"):
        begin(body, SETTINGS, finished, Silent())


def test_resuming_a_finished_run_changes_nothing(finished):
    before = (finished / "lora.safetensors").read_bytes()
    resume(finished, Silent())
    assert (finished / "lora.safetensors").read_bytes() == before


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(SonoloraError, match="holds no run"):
        resume(tmp_path, Silent())


def test_resuming_with_a_changed_request_is_refused(body, tmp_path):
    stops = StopsAt()
    with pytest.raises(InterruptedRunError):
        begin(body, SETTINGS, tmp_path / "out", stops, stops)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    run["request"]["learning_rate"] = 0.5
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    with pytest.raises(CheckpointError, match="its settings is"):
        resume(tmp_path / "out", Silent())


def test_all_clips_too_short_says_how_long_they_are(body, tmp_path):
    with pytest.raises(InputError, match=r"the longest has 0\.60 s, so lower audio_duration_seconds") as caught:
        begin({**body, "audio_duration_seconds": 3}, SETTINGS, tmp_path / "out", Silent())
    item = caught.value.items[0].as_wire()
    assert item["loc"] == ["body", "training_data_url"]
    assert item["type"] == "audio_duration_too_short"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["skipped"] == 9
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(body, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not permitted"):
        begin(body, SETTINGS, tmp_path / "out", Silent())


def test_file_in_place_of_the_folder(body, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        begin(body, SETTINGS, tmp_path / "file", Silent())


def test_unknown_mode_and_base(body, tmp_path):
    with pytest.raises(InputError, match="'x2y' is not a mode; there are: t2a, a2a"):
        find_mode("x2y")
    with pytest.raises(SonoloraError, match="tiny"):
        begin(body, RunSettings(base="huge"), tmp_path / "out", Silent())


def test_unfitting_lora_is_refused(finished, tmp_path):
    settings = GenerateSettings(finished / "prepared.safetensors")
    with pytest.raises(CheckpointError, match="not a LoRA"):
        generate(T2A, {"prompt": "x"}, settings, tmp_path / "x.wav", Silent())


def test_a_run_that_diverges_says_so_and_keeps_its_states(body, tmp_path, monkeypatch):
    def step(trainer):
        loss = taken(trainer)
        if trainer.step_count == 15:
            for parameter in trainer._parameters.values():
                parameter.data.fill_(torch.nan)
        return loss

    taken = Trainer.step
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(SonoloraError, match=r"training diverged: by step 20 .* learning_rate below 0\.002"):
        begin(body, SETTINGS, tmp_path / "run", Silent())
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-000010.safetensors"]
    assert not (tmp_path / "run" / "lora.safetensors").exists()


def test_a_state_that_is_not_finite_is_not_saved(body, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "is_finite", lambda trainer: trainer.step_count < 10)
    with pytest.raises(SonoloraError, match="training diverged: by step 15"):
        begin(body, replace(SETTINGS, checkpoint_every=15), tmp_path / "run", Silent())
    assert not (tmp_path / "run" / "checkpoints" / "step-000015.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is damaged"), ('{"mode": "t2a", "sonolora_version": "9.9", "settings": {"magic": 1}}', "by Sonolora 9.9")],
)
def test_a_run_that_cannot_be_read_says_why(tmp_path, text, words):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SonoloraError, match=words):
        resume(tmp_path, Silent())


@pytest.mark.parametrize("again", [False, True])
def test_two_processes_do_not_work_in_one_folder(again, body, finished, tmp_path):
    other = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(1, flush=True); input()"
    folder = finished if again else tmp_path
    left = tmp_path / ".data-x"
    left.mkdir()
    with subprocess.Popen([sys.executable, "-c", other, folder], stdin=-1, stdout=-1, text=True) as process:
        process.stdout.readline()
        with pytest.raises(SonoloraError, match="another process is at work in"):
            resume(folder, Silent()) if again else begin(body, SETTINGS, folder, Silent())
        process.communicate("\n")
    assert left.exists(), "it may be the other's"
