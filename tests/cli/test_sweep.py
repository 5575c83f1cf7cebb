"""`sonolora sweep`: what it refuses before anything heavy is loaded, and its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sonolora.cli.sweep import print_sweep
from sonolora.core.atomic_files import write_json
from sonolora.core.cancellation import InterruptedRunError
from sonolora.planning.run_settings import option
from sonolora.planning.sweep_plan import WITHOUT
from sonolora.runs.artifacts import METRICS, RECORD, SWEEP, RunArtifacts
from sonolora.runs.report.verdict import verdict
from sonolora.runs.run_record import RunRecord

PLAN = {"members": [{"learning_rate": 1e-4, "rank": 8}, {"learning_rate": 2e-4, "rank": 8}], "keep_all": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning-rate", "1e-4"], "a sweep needs two members or more"),
        (["--learning-rate", "1e-4,2"], "learning_rate: Input should be less than or equal to 1"),
        (["--rank", "8,9"], "rank: Input should be 8, 16"),
        (["--rank", "16,16"], "rank: is one value, given several times"),
        (["--rank", "8,16", "--held-out", "0", "--estimate"], "0 holds out no clips"),
    ],
)
def test_what_is_no_sweep_is_a_bad_request(sonolora, tmp_path, options, words):
    done = sonolora("sweep", "t2a", tmp_path, *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


def test_the_page_names_every_option_of_train_that_a_sweep_leaves_out():
    page = (Path(__file__).parents[2] / "docs" / "sweep.md").read_text()
    limits = " ".join(page.split("## Limits")[1].split("it takes all others")[0].split())
    named = set(re.findall(r"`(--[a-z-]+)`", limits))
    assert named == {option(name) for name in WITHOUT} - {"--own-previews"} | {"--no-previews"}


def test_where_no_sweep_is_none_is_continued(sonolora, tmp_path):
    done = sonolora("sweep", "--resume", tmp_path)
    assert done.code == 2 and "holds no sweep" in done.err and "sonolora sweep MODE DATA" in done.err


def test_a_run_of_one_lora_is_not_continued_as_a_sweep(sonolora, tmp_path):
    write_json(tmp_path / RECORD, RunRecord.new("t2a", {}, {}, "f").as_json())
    done = sonolora("sweep", "--resume", tmp_path)
    assert done.code == 2
    assert f"sonolora train --resume {tmp_path}" in done.err


def test_the_table_has_the_best_first(tmp_path, capsys):
    write_json(tmp_path / RECORD, RunRecord.new("a2a", {"number_of_steps": 100}, {}, "f", PLAN).as_json())
    change = {"mean": -0.2, "low": -0.3, "high": -0.1}
    members = [
        {**PLAN["members"][0], "steps": 50, "change": None, "behind_best": None, "curve": []},
        {**PLAN["members"][1], "steps": 100, "change": change, "behind_best": None, "curve": []},
    ]
    write_json(tmp_path / SWEEP, {"summary": "Best.", "best": 1, "members": members, "held_out_clips": 5})
    (tmp_path / METRICS).write_text('{"step": 100, "loss": 0.1}\n')
    print_sweep(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "--input SOUND.wav" in lines[-1]
    assert verdict(RunArtifacts(tmp_path)).text == "Best."
    assert "0.0002" in lines[2]
    assert "-18 % [-26, -10]" in lines[2]
    assert "diverged" in lines[3]


def test_an_unfinished_sweep_is_continued_as_a_sweep(tmp_path):
    write_json(tmp_path / RECORD, RunRecord.new("t2a", {"number_of_steps": 100}, {}, "f", PLAN).as_json())
    ((_, command),) = verdict(RunArtifacts(tmp_path)).commands
    assert command == f"sonolora sweep --resume {tmp_path}"
    assert command in str(InterruptedRunError(tmp_path, 3, 100, "sweep"))
