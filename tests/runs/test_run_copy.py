"""A run that goes on on another machine, from the copy of its folder in an object store."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from run_support import Silent, StopsAt, begin

from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.object_store import ObjectStore, ObjectStoreError
from sonolora.runs import run_copy
from sonolora.runs.artifacts import RECORD
from sonolora.runs.resume import resume
from sonolora.runs.run_copy import RunCopy, remove_copies

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'sonolora[s3]'")


@pytest.fixture
def objects(tmp_path):
    return ObjectStore(f"file://{tmp_path}/objects")


def make_run(folder, text, step):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in (RECORD, "metrics.jsonl"):
        (folder / name).write_text(text)
    state = folder / "checkpoints" / f"step-{step:06d}.safetensors"
    state.write_text(text)
    return state


def test_a_run_that_moves_gives_the_same_lora(body, settings, tmp_path, objects):
    settings = replace(settings, preview_every=1000)
    stop = StopsAt(step=3)
    with pytest.raises(InterruptedRunError), RunCopy(objects, "id", 1).kept(tmp_path / "here"):
        begin("t2a", body, settings, tmp_path / "here", stop, stop)
    shutil.rmtree(tmp_path / "here")
    with RunCopy(objects, "id", 2).kept(tmp_path / "there"):
        moved = resume(tmp_path / "there", Silent())
    undisturbed = begin("t2a", body, settings, tmp_path / "undisturbed")
    assert moved.read_bytes() == undisturbed.read_bytes()
    RunCopy(objects, "id", 2).collect(tmp_path / "server")
    assert (tmp_path / "server" / moved.name).read_bytes() == undisturbed.read_bytes()


def test_what_changes_is_copied_and_what_goes_is_removed(tmp_path, objects):
    folder = tmp_path / "run"
    state = make_run(folder, "1", 5)
    (folder / ".data-1").mkdir()
    (folder / ".data-1" / "clip.wav").write_text("on its way")
    copy = RunCopy(objects, "id", 1)
    assert copy.put(folder) == 3 and copy.put(folder) == 0
    state.unlink()
    (folder / "metrics.jsonl").write_text("1 2")
    assert copy.put(folder) == 2
    assert RunCopy(objects, "id", 2).restore(tmp_path / "other")
    names = {path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*.*")}
    assert names == {RECORD, "metrics.jsonl", ".attempt"}
    assert (tmp_path / "other" / "metrics.jsonl").read_text() == "1 2"
    remove_copies(objects, "id")
    assert not list(objects.list("runs"))


def test_an_older_attempt_that_comes_back_disturbs_nothing(tmp_path, objects):
    old, new, next_ = (tmp_path / name for name in ("old", "new", "next"))
    make_run(old, "old", 1)
    late = RunCopy(objects, "id", 1)
    late.put(old)
    with RunCopy(objects, "id", 2).kept(new):
        make_run(new, "new", 2)
        (old / "metrics.jsonl").write_text("much later")
        late.put(old)
    assert RunCopy(objects, "id", 3).restore(next_)
    assert (next_ / "metrics.jsonl").read_text() == "new"
    # Where the old attempt was, its folder is replaced; where the newest was, what it has made stays.
    assert RunCopy(objects, "id", 3).restore(old)
    assert (old / "metrics.jsonl").read_text() == "new"
    (new / "metrics.jsonl").write_text("not copied any more")
    assert RunCopy(objects, "id", 3).restore(new)
    assert (new / "metrics.jsonl").read_text() == "not copied any more"


def test_without_a_record_there_is_no_run(tmp_path, objects, monkeypatch):
    """The machine dies in the middle of the first copy."""
    folder = tmp_path / "run"
    make_run(folder, "1", 5)
    real = objects.put

    def put(name, path):
        if name.endswith(RECORD):
            raise ObjectStoreError("it", "it is away", "")
        real(name, path)

    monkeypatch.setattr(objects, "put", put)
    with pytest.raises(ObjectStoreError):
        RunCopy(objects, "id", 1).put(folder)
    assert list(objects.list("runs")) and not RunCopy(objects, "id", 2).restore(tmp_path / "other")


def test_a_store_that_is_away_does_not_stop_a_run(tmp_path, objects, monkeypatch):
    monkeypatch.setattr(run_copy, "COPY_SECONDS", 0.01)
    folder, away = tmp_path / "run", True
    real = objects.put

    def put(name, path):
        if away:
            raise ObjectStoreError("it", "it is away", "")
        real(name, path)

    monkeypatch.setattr(objects, "put", put)
    with RunCopy(objects, "id", 1).kept(folder):
        make_run(folder, "1", 5)
        run_copy.threading.Event().wait(0.1)
        away = False
    assert RunCopy(objects, "id", 2).restore(tmp_path / "other")


def test_collected_where_the_run_does_not_work(tmp_path, objects):
    folder, server = tmp_path / "run", tmp_path / "server"
    with RunCopy(objects, "id", 1).kept(folder):
        make_run(folder, "1", 5)
    for text in ("1", "1 2"):
        (folder / "metrics.jsonl").write_text(text)
        RunCopy(objects, "id", 1).put(folder)
        RunCopy(objects, "id", 1).collect(server)
        assert (server / "metrics.jsonl").read_text() == text


def test_one_of_two_may_carry_out_an_attempt(objects):
    copy = RunCopy(objects, "id", 2)
    assert copy.claim("a") and not copy.claim("b") and copy.claim("a")
    assert RunCopy(objects, "id", 3).claim("b")
