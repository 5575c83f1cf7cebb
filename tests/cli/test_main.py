"""The command as its user calls it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from sonolora import __version__
from sonolora.cli.main import main
from sonolora.cli.options import option_parameters, request_body
from sonolora.core.errors import InputError
from sonolora.modes import MODES


def sonolora(*arguments):
    return subprocess.run([sys.executable, "-m", "sonolora", *map(str, arguments)], capture_output=True, text=True)


def test_version():
    assert sonolora("--version").stdout == f"sonolora {__version__}\n"


def test_every_field_of_the_request_is_an_option():
    shown = sonolora("train", "t2a", "--help").stdout
    for name in MODES["t2a"].request.model_fields:
        if name != "training_data_url":
            assert f"--{name.replace('_', '-')}" in shown, name
    assert "--no-audio-normalize" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "t2a", "nowhere.zip", "--out", "{out}"), "training_data_url: .*nowhere.zip"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--rank", "9"), "^rank: .*found 9"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--number-of-steps", "many"), "number_of_steps: .*'many'"),
        (("train", "t2a", "--out", "{out}"), "training_data_url: missing"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--validation", "[{"), "validation: .*neither JSON nor"),
        (("train", "t2a", "x.zip", "--out", "{out}", "--request", "no.json"), "request: no.json cannot be read"),
        (("train", "x2y", "x.zip", "--out", "{out}"), "x2y"),
        (("train", "t2a", "x.zip"), "--out"),
        (("train", "--device", "cpu", "t2a", "x.zip", "--out", "{out}"), "device: goes behind the mode"),
    ],
)
def test_bad_requests_end_with_2_and_name_the_field(tmp_path, arguments, words):
    done = sonolora(*(str(argument).replace("{out}", str(tmp_path / "out")) for argument in arguments))
    assert done.returncode == 2
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_other_failures_end_with_1(tmp_path):
    done = sonolora("train", "--resume", tmp_path)
    assert done.returncode == 1
    assert "holds no run" in done.stderr


LIGHT = "import sys; sys.modules['torch'] = None; from sonolora.cli.main import main; main()"


def light(*arguments):
    """The same where nothing heavy can be loaded: what it says, it says at once."""
    return subprocess.run([sys.executable, "-c", LIGHT, *map(str, arguments)], capture_output=True, text=True)


def test_a_folder_that_holds_a_run_is_refused_at_once(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    done = light("train", "t2a", "x.zip", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path} already holds a run. Continue it with: sonolora train --resume {tmp_path}" in done.stderr


def test_resuming_with_a_mode_or_what_is_finished_says_so_at_once(tmp_path):
    done = light("train", "t2a", "--resume", tmp_path)
    assert (done.returncode, done.stderr) == (2, f"resume: a run knows its mode: sonolora train --resume {tmp_path}\n")
    request = {"number_of_steps": 100, "validation": [{"prompt": "a bell"}]}
    record = {"sonolora_version": "0.1.0", "mode": "t2a", "request": request, "settings": {}, "base_fingerprint": "0"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "lora.safetensors").touch()
    assert light("train", "--resume", tmp_path).returncode != 0, "not measured to the end"
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "grid_loss": 1.5}\n{"step": 100, "grid_loss": 1.0}\n')
    assert light("train", "--resume", tmp_path).returncode != 0, "not heard"
    (tmp_path / "preview.wav").touch()
    done = light("train", "--resume", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stdout and str(tmp_path / "lora.safetensors") in done.stdout


@pytest.mark.parametrize(
    ("lora", "out", "words"),
    [
        ("nowhere.safetensors", "x.wav", "lora: there is no file or folder 'nowhere.safetensors'"),
        ("data:text,x", "x.wav", "lora: the data: URI is not base64"),
        ("s3://host/x", "x.wav", "lora: s3:// addresses are not supported"),
        ("nowhere.safetensors", ".", "out: . is a folder"),
        ("nowhere.safetensors", "x.png", "out: a .wav is written, and x.png is none: give --out x.wav"),
    ],
)
def test_generate_looks_at_the_lora_and_the_output_at_once(lora, out, words):
    done = light("generate", "t2a", "--prompt", "x", "--lora", lora, "--out", out)
    assert done.returncode == 2
    assert words in done.stderr


def test_unknown_fields_of_a_request_file_are_warned_of(tmp_path):
    (tmp_path / "request.json").write_text('{"training_data_url": "x.zip", "rank": 9, "number_of_stepz": 5}')
    done = light("train", "t2a", "--request", tmp_path / "request.json", "--out", tmp_path / "out")
    assert "warning: unknown field number_of_stepz has no effect; did you mean number_of_steps?" in done.stderr


def test_a_check_of_nothing_names_no_report(tmp_path):
    done = sonolora("check", "t2a", tmp_path / "nowhere.zip", "--out", tmp_path / "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere.zip" in done.stderr


def test_options_override_the_request_file(tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"training_data_url": "a.zip", "rank": 8, "validation": [{"prompt": "one"}]}))
    body = request_body({"rank": "16", "stg_scale": None}, None, ["two"], file)
    assert body == {
        "training_data_url": "a.zip", "rank": "16", "validation": [{"prompt": "one"}, {"prompt": "two"}],
    }  # fmt: skip
    assert request_body({}, "b.zip", [], file)["training_data_url"] == "b.zip"


def test_validation_is_json_text_or_a_file(tmp_path):
    entries = [{"prompt": "a bell"}]
    (tmp_path / "v.json").write_text(json.dumps(entries))
    for given in (json.dumps(entries), str(tmp_path / "v.json")):
        assert request_body({"validation": given}, "x", [], None)["validation"] == entries
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json is not JSON"):
        request_body({"validation": str(tmp_path / "bad.json")}, "x", [], None)


def test_request_file_must_hold_an_object(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object, not a list"):
        request_body({}, "x", [], tmp_path / "list.json")


def test_fields_without_effect_say_so():
    shown = {
        parameter.name: parameter.annotation.__metadata__[0].help
        for parameter in option_parameters(MODES["t2a"].request)
    }
    assert "No effect in this mode" in shown["number_of_frames"]
    assert "No effect in this mode" not in shown["stg_scale"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = light("generate", "t2a", "--prompt", "x", "--out", tmp_path / "file" / "x.wav")
    assert done.returncode == 1
    assert f"{tmp_path / 'file'} could not be written" in done.stderr


def test_prompts_beside_validation_that_is_no_list(tmp_path):
    file = tmp_path / "request.json"
    for entries, found in (("null", [{"prompt": "x"}]), ('{"prompt": "y"}', {"prompt": "y"})):
        file.write_text(f'{{"training_data_url": "a.zip", "validation": {entries}}}')
        assert request_body({}, None, ["x"], file)["validation"] == found, "what is none is refused with the rest"


def test_memory_that_is_out_is_said(monkeypatch, capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch calls it."""

    def run():
        raise OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("sonolora.cli.main.app", run)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "not enough memory" in capsys.readouterr().err
