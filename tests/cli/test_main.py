"""Exit codes, and what the command does before it loads anything heavy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from sonolora import __version__
from sonolora.cli.main import app
from sonolora.core.threads import WAITING


def test_version(sonolora):
    assert sonolora("--version") == type(sonolora("--version"))(0, f"sonolora {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "t2a", "nowhere.zip", "--out", "{out}"), "training_data_url: .*nowhere.zip"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--rank", "9"), "^rank: .*found 9"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--number-of-steps", "many"), 'number_of_steps: .*found "many"'),
        (("train", "t2a", "--out", "{out}"), "training_data_url: missing"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--validation", "[{"), "validation: .*neither JSON such as"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--request", "no.json"), "request: no.json cannot be read"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--batch-size", "0"), "batch_size: must be at least 1, not 0"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--sigma-density", "x"), "'x' is not one of published, clamped"),
        (("train", "t2a", "x.zip"), "--out"),
        (("check", "t2a", "nowhere.zip", "--out", "{out}"), "nowhere.zip"),
        (("generate", "t2a", "--prompt", "x", "--out", "{out}.wav", "--steps", "0"), "steps: must be at least 1"),
    ],
)
def test_bad_requests_end_with_2_and_name_the_field(sonolora, tmp_path, arguments, message):
    done = sonolora(*(argument.replace("{out}", str(tmp_path / "out")) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert re.search(message, done.err), done.err
    assert not (tmp_path / "out" / "run.json").exists()


def test_other_failures_end_with_1(sonolora, tmp_path):
    done = sonolora("train", "--resume", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "run.json" in done.err


def test_a_path_that_cannot_be_written_is_named(sonolora, tmp_path):
    (tmp_path / "file").touch()
    done = sonolora("generate", "t2a", "--prompt", "x", "--out", tmp_path / "file" / "x.wav")
    assert done.code == 1
    assert f"{tmp_path / 'file'} could not be written" in done.err


@pytest.mark.parametrize("command", ["train", "check", "generate"])
def test_a_name_that_is_too_long_is_named(sonolora, tmp_path, command):
    out = tmp_path / f"{'x' * 300}.wav"
    done = sonolora(command, "t2a", *(["--prompt", "x"] if command == "generate" else [tmp_path]), "--out", out)
    assert done.code == 1
    assert str(out) in done.err and "File name too long" in done.err


def test_out_of_memory_says_what_to_do(sonolora, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        """As torch calls it."""

    def run():
        raise OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("sonolora.cli.main.app", run)
    done = sonolora("demo")
    assert done.code == 1
    assert "not enough memory" in done.err and "--block-offload (tried to allocate 2 GiB)" in done.err


def test_ctrl_c_before_a_run_looks_for_it_ends_with_130(sonolora, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sonolora.runs.artifacts.RunArtifacts.is_finished", interrupted)
    assert sonolora("train", "--resume", "x").code == 130


# What must not need torch: help pages, and refusals that cost nothing to make.
_LIGHT = """
import contextlib, io, json, sys
sys.modules["torch"] = None
from sonolora.cli.main import main
results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["sonolora", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            results.append([end.code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def test_torch_is_not_imported_for_help_and_cheap_refusals(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").write_text("{}")
    done = tmp_path / "done"
    done.mkdir()
    request = {"number_of_steps": 100, "validation": [{"prompt": "a bell"}]}
    record = {"sonolora_version": "0.1.0", "mode": "t2a", "request": request, "settings": {}, "base_fingerprint": "0"}
    (done / "run.json").write_text(json.dumps(record))
    (done / "metrics.jsonl").write_text('{"step": 0, "grid_loss": 1.5}\n{"step": 100, "grid_loss": 1.0}\n')
    for output in ("lora.safetensors", "preview.wav"):
        (done / output).touch()
    generate = ("generate", "t2a", "--prompt", "x", "--lora")
    cases = {
        ("--help",): (0, "Train LTX-2.3"),
        ("train", "v2a", "--help"): (0, "--v2a-video"),
        ("serve", "--help"): (0, "--queue-limit"),
        ("train", "t2a", "x.zip", "--out", f"{tmp_path / 'taken'}"): (1, "already holds a run"),
        ("train", "t2a", "x.zip", "--out", "new"): (2, "training_data_url: there is no file or folder 'x.zip'"),
        ("check", "t2a", "x.zip"): (2, "training_data_url: there is no file or folder 'x.zip'"),
        ("estimate", "t2a", "x.zip"): (2, "training_data_url: there is no file or folder 'x.zip'"),
        ("inspect", "x.safetensors"): (1, "x.safetensors: there is no such file"),
        ("train", "--resume", f"{done}"): (0, f"LoRA:     {done / 'lora.safetensors'}"),
        ("train", "t2a", "--resume", "x"): (2, "resume: takes no mode, the run has one: sonolora train --resume x"),
        (*generate, "nowhere.safetensors", "--out", "x.wav"): (2, "there is no file or folder 'nowhere.safetensors'"),
        (*generate, "data:text,x", "--out", "x.wav"): (2, "lora: the data: URI is not base64"),
        (*generate, "s3://host/x", "--out", "x.wav"): (2, "lora: s3:// addresses are not supported"),
        (*generate, "x", "--out", f"{tmp_path}"): (2, f"out: {tmp_path} is a folder"),
        (*generate, "x", "--out", "a/x.png"): (2, "not x.png: use --out a/x.wav"),
    }
    command = [sys.executable, "-c", _LIGHT, json.dumps(list(map(list, cases)))]
    child = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert not (tmp_path / "new").exists() and not (tmp_path / "check").exists(), "a refusal leaves nothing behind"
    for (arguments, (code, words)), result in zip(cases.items(), json.loads(child.stdout), strict=True):
        assert result[0] == code, (arguments, result)
        assert words in result[1] + result[2], (arguments, result)


def test_a_shell_sees_the_exit_code():
    child = subprocess.run([sys.executable, "-m", "sonolora", "train", "x2y"], capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (2, "")
    assert "mode: 'x2y' is not a mode: specify one of t2a, a2a" in child.stderr
    assert "Traceback" not in child.stderr


def test_threads_are_configured(sonolora, monkeypatch):
    for name in WAITING:
        monkeypatch.setenv(name, "so that it is put back")
        monkeypatch.delenv(name)
    sonolora("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_every_command_has_help_of_one_sentence():
    for command in app.registered_commands:
        text = command.help or command.callback.__doc__
        assert text.strip().split("\n")[0].endswith("."), command.name
    for group in app.registered_groups:
        assert group.typer_instance.info.help.endswith("."), group.name
