"""The command as its user calls it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from sonolora import __version__
from sonolora.errors import InputError
from sonolora.modes import MODES
from sonolora.options import option_parameters, request_body


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
