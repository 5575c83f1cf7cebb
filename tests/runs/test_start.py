"""Whole runs on the embedded base: their outputs, and what refuses to start."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import wave
from dataclasses import replace

import pytest
import torch
from run_support import Silent, StopsAt, begin, eval_losses_of
from safetensors.torch import load_file

from sonolora.core.atomic_files import OutputError
from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.errors import CheckpointError, InputError, SonoloraError
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.modes import find_mode
from sonolora.modes.t2a import T2A
from sonolora.planning.run_settings import RunSettings
from sonolora.runs import train as train_module
from sonolora.runs.artifacts import DEBUG_ARCHIVE, RunArtifacts, RunDeletedError
from sonolora.runs.generation.generate import GenerateSettings, generate
from sonolora.runs.resume import resume
from sonolora.training.trainer import Trainer

pytestmark = pytest.mark.xdist_group("run")  # one run is shared by many of these tests


def frames_of(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (48000, 2, 2)
        return file.readframes(file.getnframes())


def test_the_folder_holds_everything_that_was_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "lora.safetensors", "config.json", "preview.wav", "previews", "metrics.jsonl", "report.json", "report.html",
        "report", "checkpoints", "evaluation.json", "debug_dataset.zip", "run.json", "prepared.safetensors",
        "finish.json", "patterns.safetensors",
    }, "nothing temporary stays"  # fmt: skip
    previews = sorted(path.name for path in (finished / "previews").iterdir())
    steps = [f"step-{step:06d}-{number}{kind}" for step in (0, 6, 12) for number in (1, 2) for kind in (".png", ".wav")]
    assert previews == ["index.json", "sources.json", *steps]


def test_the_index_of_previews_says_what_each_is(finished):
    entries = json.loads((finished / "previews" / "index.json").read_text())
    prompts = ["t0ne a tone, number 2", "t0ne a low tone"]
    assert entries == [
        {
            "step": step,
            "number": number,
            "prompt": prompts[number - 1],
            "seed": 42,
            "kind": "lora" if step else "base",
            "distilled": False,
            "sound": f"step-{step:06d}-{number}.wav",
            "picture": f"step-{step:06d}-{number}.png",
        }
        for step in (0, 6, 12)
        for number in (1, 2)
    ]
    artifacts = RunArtifacts(finished)
    assert [preview.prompt for preview in artifacts.previews()] == 3 * prompts
    assert all(preview.sound in artifacts and preview.picture in artifacts for preview in artifacts.previews())


def test_the_lora_changes_the_base_and_names_its_origin(finished, settings):
    path = finished / "lora.safetensors"
    assert any(tensor.abs().max() > 0 for key, tensor in load_file(path).items() if "lora_B" in key)
    metadata = Checkpoint.open(path).metadata
    assert metadata["mode"] == "t2a"
    assert metadata["rank"] == metadata["alpha"] == "8"
    assert metadata["trigger_phrase"] == "t0ne"
    assert metadata["base"] == settings.base
    assert metadata["license"].startswith("Apache-2.0"), "that of the base"
    config = json.loads((finished / "config.json").read_text())
    assert config["training_type"] == "t2a"
    assert config["trigger_phrase"] == "t0ne"
    assert config["request"]["number_of_steps"] == 12


def test_the_loss_on_training_clips_falls(finished):
    losses = eval_losses_of(finished)
    assert list(losses) == [0, 6, 12]
    assert losses[12] < losses[6] < losses[0]


def test_preview_is_all_samples_with_a_short_silence(finished):
    whole = frames_of(finished / "preview.wav")
    first, second = (frames_of(finished / "previews" / f"step-000012-{number}.wav") for number in (1, 2))
    assert len(first) == len(second) == 24000 * 4, "half a second each"
    assert whole == first + bytes(24000 * 4) + second


def test_previews_change_with_training(finished):
    before, after = (frames_of(finished / "previews" / f"step-{step}-1.wav") for step in ("000000", "000012"))
    assert before != after


@pytest.fixture
def generated(settings, silent, tmp_path):
    def generated(lora, scale=1.0, **asked):
        body = {"prompt": "t0ne a tone, number 2", **asked}
        how = GenerateSettings(lora, scale, base=settings.base, device="cpu", steps=4)
        generate(T2A, body, how, tmp_path / "x.wav", silent)
        return frames_of(tmp_path / "x.wav")

    return generated


def test_generate_gives_the_samples_of_the_preview(finished, generated):
    sound = generated(finished / "lora.safetensors")
    assert sound == frames_of(finished / "previews" / "step-000012-1.wav")


def test_generate_without_lora_gives_the_base(finished, generated):
    for lora, scale in ((None, 1.0), (finished / "lora.safetensors", 0.0)):
        sound = generated(lora, scale, seconds=0.5)
        assert sound == frames_of(finished / "previews" / "step-000000-1.wav")


def test_the_report_has_an_entry_for_every_file(finished, dataset):
    files = {entry["file"]: entry for entry in json.loads((finished / "report.json").read_text())["files"]}
    assert files.keys() == {path.name for path in dataset.iterdir()}
    assert files["short.wav"]["status"] == "skipped"
    assert "0.200 s" in files["short.wav"]["detail"]
    assert files["clip0.wav"]["status"] == "fitted"
    assert files["clip0.txt"]["status"] == "used"


@pytest.mark.parametrize("phase", ["fetching the data", "reading and encoding the clips", "writing the debug archive"])
def test_stopped_before_training_leaves_nothing_to_resume(body, settings, tmp_path, phase):
    stops = StopsAt(phase, 1 if phase.startswith("reading") else 0)
    with pytest.raises(InterruptedRunError, match="stopped before training began"):
        begin("t2a", {**body, "debug_dataset": True}, settings, tmp_path / "out", stops, stops)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {"run.json", "prepared.safetensors", DEBUG_ARCHIVE} & left
    assert not [name for name in left if name.startswith(".")]


def test_the_same_run_twice_gives_the_same_file(body, settings, tmp_path):
    files = [begin("t2a", body, settings, tmp_path / name).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    assert begin("t2a", body, replace(settings, seed=7), tmp_path / "c").read_bytes() != files[0]


def test_a_full_disk_leaves_the_old_state_and_is_named(body, settings, silent, tmp_path, monkeypatch):
    real = train_module.save_state
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_up(path, **options):
        real(path, **options)
        # From now on the operating system refuses to write a file as large as a state.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    monkeypatch.setattr(train_module, "save_state", fills_up)
    try:
        with pytest.raises(OutputError, match=r"step-000008.safetensors could not be written"):
            begin("t2a", body, settings, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-000004.safetensors"]
    monkeypatch.setattr(train_module, "save_state", real)
    assert resume(tmp_path / "out", silent).exists()


def test_a_second_run_in_a_folder_is_refused(finished, body, settings):
    with pytest.raises(SonoloraError, match="already holds a run"):
        begin("t2a", body, settings, finished)


def test_clips_that_are_all_too_short_are_an_error_with_their_length(body, settings, tmp_path):
    with pytest.raises(InputError, match=r"the longest lasts 0\.60 s, so lower audio_duration_seconds") as caught:
        begin("t2a", {**body, "audio_duration_seconds": 3}, settings, tmp_path / "out")
    item = caught.value.items[0].as_wire()
    assert item["loc"] == ["body", "training_data_url"]
    assert item["type"] == "audio_duration_too_short"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["skipped"] == 9
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(body, settings, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not permitted"):
        begin("t2a", body, settings, tmp_path / "out")


def test_file_in_place_of_the_folder(body, settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        begin("t2a", body, settings, tmp_path / "file")


def test_unknown_mode_and_base(body, tmp_path):
    with pytest.raises(InputError, match="'x2y' is not a mode; there are: t2a, a2a"):
        find_mode("x2y")
    with pytest.raises(SonoloraError, match="tiny"):
        begin("t2a", body, RunSettings(base="huge"), tmp_path / "out")


def test_a_file_that_is_no_lora_is_refused(finished, silent, tmp_path):
    settings = GenerateSettings(finished / "prepared.safetensors")
    with pytest.raises(CheckpointError, match="not a LoRA"):
        generate(T2A, {"prompt": "x"}, settings, tmp_path / "x.wav", silent)


def test_a_run_that_diverges_is_an_error_and_keeps_its_states(body, settings, tmp_path, monkeypatch):
    def step(trainer):
        loss = taken(trainer)
        if trainer.step_count == 9:
            trainer._adapters.flat.data.fill_(torch.nan)
        return loss

    taken = Trainer.step
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(SonoloraError, match=r"training diverged: by step 10 .* learning_rate below 0\.002"):
        begin("t2a", body, replace(settings, checkpoint_every=8), tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-000008.safetensors"]
    assert not (tmp_path / "run" / "lora.safetensors").exists()


def test_a_state_that_is_not_finite_is_not_saved(body, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "is_finite", lambda trainer: trainer.step_count < 4)
    with pytest.raises(SonoloraError, match="training diverged: by step 4"):
        begin("t2a", body, settings, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "step-000004.safetensors").exists()


@pytest.mark.parametrize("again", [False, True])
def test_two_processes_do_not_work_in_one_folder(again, body, settings, silent, finished, tmp_path):
    other = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(1, flush=True); input()"
    folder = finished if again else tmp_path
    left = tmp_path / ".data-x"
    left.mkdir()
    with subprocess.Popen([sys.executable, "-c", other, folder], stdin=-1, stdout=-1, text=True) as process:
        process.stdout.readline()
        with pytest.raises(SonoloraError, match="another process is using"):
            resume(folder, silent) if again else begin("t2a", body, settings, folder)
        process.communicate("\n")
    assert left.exists(), "it may be the other's"


def test_a_run_that_made_things_worse_says_so_at_its_end(body, settings, recorded, tmp_path):
    begin("t2a", {**body, "learning_rate": 1}, replace(settings, base="tiny"), tmp_path / "run", recorded)
    losses = eval_losses_of(tmp_path / "run")
    assert losses[12] > losses[0]
    words = f"train_eval_loss rose from {losses[0]:.4g} at step 0 to {losses[12]:.4g} at step 12"
    assert words in recorded.warnings[-1] and "a learning_rate below 1" in recorded.warnings[-1]


@pytest.mark.parametrize("learning_rate", [0.002, 1e-6])
def test_a_run_that_did_not_says_nothing(body, settings, recorded, tmp_path, learning_rate):
    begin("t2a", {**body, "learning_rate": learning_rate}, settings, tmp_path / "run", recorded)
    assert not [text for text in recorded.warnings if "worse" in text]


@pytest.mark.parametrize("step", [2, 12])
def test_a_folder_that_is_deleted_under_a_run_is_an_error(body, settings, tmp_path, step):
    class Deletes(Silent):
        def metrics(self, at, values):  # noqa: ARG002
            if at >= step - 2 and (tmp_path / "run").exists():
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(RunDeletedError, match="was deleted while it was in use: start the run again"):
        begin("t2a", body, settings, tmp_path / "run", Deletes())
    assert not (tmp_path / "run").exists(), "nothing is left of it"


def test_a_name_that_is_too_long_is_an_error(body, settings, silent, tmp_path):
    folder = tmp_path / ("x" * 300)
    with pytest.raises(OutputError, match="could not be written: File name too long"):
        begin("t2a", body, settings, folder)
    with pytest.raises(SonoloraError, match="cannot be read: File name too long"):
        resume(folder, silent)
