"""A folder for each attempt; a process of an older attempt is in test_worker.py."""

from __future__ import annotations

import pytest

from sonolora.core.atomic_files import OutputError
from sonolora.server.placing import attempt_folders
from sonolora.server.placing.attempt_folders import begin_attempt, drop_older_attempts, id_of, remove_run_folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("links", [True, False])
def test_an_attempt_begins_with_what_the_last_one_left(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise PermissionError("no hard links")

        monkeypatch.setattr(attempt_folders.os, "link", refuse)
    run = tmp_path / "runs" / "id"
    first = begin_attempt(run, 1)
    assert run.resolve() == first and content(run) == {}
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "step-000004.safetensors").write_text("state")
    (first / "metrics.jsonl").write_text("one\n")
    (first / ".half.part.wav").write_text("half")
    (first / ".data-x").mkdir()
    (first / ".data-x" / "clip").write_text("clip")
    second = begin_attempt(run, 2)
    assert run.resolve() == second
    assert content(run) == {"checkpoints/step-000004.safetensors": "state", "metrics.jsonl": "one\n"}
    with (first / "metrics.jsonl").open("a") as file:
        file.write("two\n")
    assert content(run)["metrics.jsonl"] == "one\n", "what the first still adds is its own"
    assert begin_attempt(run, 2) == second, "a second call changes nothing"
    assert content(run)["metrics.jsonl"] == "one\n"
    assert {id_of(folder) for folder in (run, first, second)} == {"id"}
    drop_older_attempts(run)
    assert sorted(path.name for path in run.parent.iterdir()) == ["id", "id.attempt-2"]
    for folder in list(run.parent.iterdir()):
        remove_run_folder(folder)
    assert list(run.parent.iterdir()) == []


def test_a_run_that_was_placed_on_this_machine_goes_on_elsewhere(tmp_path):
    run = tmp_path / "id"
    run.mkdir()
    (run / "run.json").write_text("{}")
    drop_older_attempts(run)
    begin_attempt(run, 3)
    assert run.is_symlink() and content(run) == {"run.json": "{}"}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OutputError, match="could not be written"):
        begin_attempt(tmp_path / "runs" / "id", 1)
