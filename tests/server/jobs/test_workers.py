"""The workers' scheduling, with workers that play a part; and once with real ones, from an upload to a LoRA."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from sonolora.server.database.database import StoreError
from sonolora.server.files.storage import Storage
from sonolora.server.jobs import worker_process as process
from sonolora.server.jobs import workers
from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.settings import ServerSettings

KILLED = "the worker was ended by SIGKILL, perhaps for want of memory"
LIMIT = 30  # seconds for anything to happen, on a busy machine

# Speaks the worker's side. What to do with a job is the last part of its address.
PLAYER = """
import json, os, signal, sys, time
from pathlib import Path

def tell(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)

def stop_order():
    line = sys.stdin.readline()
    return json.loads(line)["stop"] if line else None

tell("ready")
for line in iter(sys.stdin.readline, ""):
    job = json.loads(line)
    folder = Path(job["folder"])
    resumed = (folder / "run.json").exists()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(line)
    (folder / "goes").open("a").write(f"{os.getpid()}\\n")
    part = job["body"]["training_data_url"].rsplit("/", 1)[-1]
    tell("begun", resumed=resumed)
    (folder / ".data-x").mkdir(exist_ok=True)
    if part == "done" or (part == "once" and resumed):
        tell("phase", name="training", total=100)
        tell("metrics", step=100, values={"loss": 1.25, "learning_rate": 0.1, "steps_per_second": 4.0})
        tell("progress", step=100, total=100, note="loss 1.250")
        tell("metrics", step=100, values={"train_eval_loss": 2.5})
        tell("message", text="trained")
        tell("warning", text="odd")
        for name in ("lora.safetensors", "config.json", "preview.wav"):
            (folder / name).write_text(f"{name} of {job['id']}")
        (folder / ".data-x").rmdir()
        tell("done")
    elif part in ("kill", "once"):
        (folder / "run.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)
    elif part == "exit":
        sys.exit(3)
    elif part == "bad":
        tell("input_error", detail=[{"loc": ["body", "training_data_url"], "msg": "no sound", "type": "value_error"}])
    elif part == "explained":
        tell("failed", message="the disk is full", traceback=None)
    elif part == "harmed":
        tell("failed", message=None, traceback="Traceback: SECRET")
        sys.exit(1)
    elif part == "wait":
        tell("phase", name="training", total=400)
        tell("metrics", step=100, values={"loss": 1.0, "learning_rate": 0.1, "steps_per_second": 2.0})
        tell("progress", step=100, total=400, note="")
        assert stop_order() in (job["id"], None)
        (folder / "run.json").write_text("{}")
        tell("stopped", step=100)
    elif part == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    elif part == "told to end":
        signal.signal(signal.SIGTERM, lambda *_: None)
        tell("stopped", step=5)
        sys.exit(0)
    tell("ready")
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    (tmp_path / "player.py").write_text(PLAYER)
    monkeypatch.setattr(process, "_COMMAND", (sys.executable, str(tmp_path / "player.py")))
    made = Served(ServerSettings(tmp_path / "server", attempts=2))
    yield made
    made.store.close()


class Served:
    """A store, a storage and the workers on them."""

    def __init__(self, settings):
        settings.folder.mkdir(exist_ok=True)
        self.settings = settings
        self.store = Store(settings.database)
        self.storage = Storage(settings.folder / "files", self.store, 1 << 30)
        self.changes = []

    def add(self, part, **values):
        body = {"training_data_url": f"https://example.com/{part}", "number_of_steps": 150}
        return self.store.add_request(NewRequest(endpoint="t2a", mode="t2a", body=body, key_id="k", **values)).id

    def folder(self, id):
        return self.settings.folder / "runs" / id

    def goes(self, id):
        """The processes that had it in hand."""
        path = self.folder(id) / "goes"
        return path.read_text().split() if path.exists() else []

    @asynccontextmanager
    async def running(self):
        self.workers = Workers(self.settings, self.store, self.storage, self.changes.append)
        task = asyncio.create_task(self.workers.run())
        try:
            yield task
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def until(self, holds, seconds=LIMIT):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)

    async def done(self, id):
        await self.until(lambda: self.store.request(id).state == State.DONE)
        return self.store.request(id)

    async def in_hand(self, id):
        """When the worker has told something of it."""
        await self.until(lambda: self.store.request(id).progress or self.goes(id))

    def kinds(self, id):
        return [event.kind for event in self.store.events(id)]

    def lines(self, id):
        return [line.message for line in self.store.logs(id)]


def test_from_the_queue_to_the_result(served):
    async def run():
        async with served.running():
            return await served.done(first), await served.done(second)

    first, second = served.add("done", lifetime=3600.0), served.add("done")
    done, after = uvloop.run(run())
    result = done.result
    assert (result.status, result.billable_units, result.error) == (200, 150, None)
    assert 0 <= result.inference_time < LIMIT
    assert list(result.body) == ["lora_file", "config_file", "audio", "video", "debug_dataset"]
    assert result.body["video"] is result.body["debug_dataset"] is None
    for field, name, kind in (
        ("lora_file", "lora.safetensors", "application/octet-stream"),
        ("config_file", "config.json", "application/json"),
        ("audio", "preview.wav", "audio/wav"),
    ):
        file = result.body[field]
        assert list(file) == ["url", "content_type", "file_name", "file_size"]
        assert (file["content_type"], file["file_name"]) == (kind, name)
        path = served.storage.local(f"http://anywhere{file['url']}")
        assert path.read_text() == f"{name} of {first}"
        assert file["file_size"] == path.stat().st_size
        stored = served.storage.find(file["url"].split("/")[2])
        assert stored.expires == pytest.approx(time.time() + 3600, abs=LIMIT)
    assert served.goes(first) == served.goes(second), "one worker, kept"
    assert done.started <= after.started
    assert done.progress | {"estimated_end": 0} == {
        "phase": "training", "step": 100, "steps": 100, "note": "loss 1.250", "steps_per_second": 4.0,
        "estimated_end": 0,
    }  # fmt: skip
    assert served.lines(first) == [
        "started",
        "training",
        "step 100 of 100: loss 1.2500, 4 steps a second",
        "trained",
        "odd",
    ]
    assert [line.level for line in served.store.logs(first)] == ["INFO"] * 4 + ["WARN"]
    assert served.store.metrics(first) == [
        (100, {"loss": 1.25, "learning_rate": 0.1, "steps_per_second": 4.0, "train_eval_loss": 2.5})
    ]
    assert served.kinds(first) == ["started", "finished"]
    assert served.changes.count(first) >= 3


def test_what_the_worker_is_given(served):
    body = {
        "training_data_url": "http://old.name/files/{}/clips.zip?x=1",
        "validation": [
            {"prompt": "a", "audio_url": " https://example.com/done "},
            {"prompt": "a", "audio_url": "http://localhost:8000/files/gone/a.wav"},
            {"prompt": "a", "audio_url": "https://example.com/files/theirs/a.wav"},
            {"prompt": "a", "audio_url": "http://127.0.0.1:9/files/theirs/a.wav"},
        ],
    }

    async def upload():
        async def chunks():
            yield b"zip"

        return await served.storage.receive(served.storage.new("clips.zip", "application/zip"), chunks())

    file = uvloop.run(upload())
    body["training_data_url"] = body["training_data_url"].format(file.id)
    id = served.store.add_request(NewRequest(endpoint="ic-lora/a2a", mode="a2a", body=body, key_id="k")).id

    async def run():
        async with served.running():
            await served.in_hand(id)

    uvloop.run(run())
    job = json.loads((served.folder(id) / "job.json").read_text())
    assert job == {
        "id": id,
        "folder": str(served.folder(id)),
        "mode": "a2a",
        "body": body,
        "sources": {
            "local": False,
            "private": False,
            "known": {body["training_data_url"]: str(file.path), "http://localhost:8000/files/gone/a.wav": None},
        },
        "settings": {
            "checkpoint_every": 250,
            "weights": "full",
            "gradient_checkpointing": False,
            "block_offload": False,
        },
    }


@pytest.mark.parametrize(
    ("part", "status", "kind", "detail", "goes"),
    [
        ("bad", 422, None, [{"loc": ["body", "training_data_url"], "msg": "no sound", "type": "value_error"}], 1),
        ("explained", 500, "internal_error", "the disk is full", 1),
        ("harmed", 500, "internal_error", "Internal Server Error", 1),
        ("kill", 503, "runner_disconnected", f"Runner disconnected: {KILLED}", 2),
        ("exit", 503, "runner_disconnected", "Runner disconnected: the worker ended with exit code 3", 2),
    ],
)
def test_failures(served, part, status, kind, detail, goes):
    async def run():
        async with served.running():
            return await served.done(id), await served.done(following)

    id, following = served.add(part), served.add("done")
    failed, after = uvloop.run(run())
    result = failed.result
    body = {"detail": detail} if kind is None else {"detail": detail, "error_type": kind}
    assert (result.status, result.error_type, result.body, result.billable_units) == (status, kind, body, 0)
    assert after.result.status == 200, "the queue goes on"
    assert len(served.goes(id)) == goes
    assert served.goes(following)[0] in served.goes(id) or part in ("harmed", "kill", "exit")
    assert result.error in served.lines(id)
    assert "SECRET" not in json.dumps([served.lines(id), result.body])
    assert not list(served.folder(id).glob(".data-*"))
    assert served.kinds(id)[-1] == "finished"


def test_a_fault_of_the_database_does_not_fail_what_is_trained(served, monkeypatch):
    def broken(*_):
        raise StoreError(served.settings.database, "locked")

    async def run():
        with monkeypatch.context() as patch:
            patch.setattr(served.store, "add_metrics", broken)
            served.workers = Workers(served.settings, served.store, served.storage, served.changes.append)
            with pytest.raises(ExceptionGroup) as caught:
                await served.workers.run()
            assert caught.group_contains(StoreError)
        assert served.store.request(id).state != State.DONE
        async with served.running():  # the server is started again
            return await served.done(id)

    id = served.add("done")
    assert uvloop.run(run()).result.status == 200


def test_a_crash_is_a_new_attempt(served):
    async def run():
        async with served.running():
            return await served.done(id)

    id = served.add("once")
    done = uvloop.run(run())
    assert (done.result.status, done.attempts, len(set(served.goes(id)))) == (200, 1, 2)
    assert served.kinds(id) == ["started", "crashed", "resumed", "finished"]
    assert f"{KILLED}; it is tried again" in served.lines(id)


def test_a_request_that_nobody_can_follow_ends_and_the_queue_goes_on(served, monkeypatch):
    def told(journal, event):  # noqa: ARG001
        if not told.once:
            told.once = True
            raise RecursionError(event)

    async def run():
        async with served.running():
            return await served.done(id), await served.done(following)

    told.once = False
    monkeypatch.setattr(workers.Journal, "take", told)
    id, following = served.add("done"), served.add("done")
    failed, after = uvloop.run(run())
    assert (failed.result.status, failed.result.error_type) == (500, "internal_error")
    assert after.result.status == 200
    assert len(served.goes(id)) == 1


def test_no_retry_when_it_is_not_wanted(served):
    async def run():
        async with served.running():
            return await served.done(id)

    id = served.add("once", no_retry=True)
    assert uvloop.run(run()).result.status == 503
    assert len(served.goes(id)) == 1


def test_cancelled_in_the_queue_and_while_it_runs(served):
    async def run():
        async with served.running():
            await served.in_hand(running)
            asked = time.monotonic()
            served.store.ask_cancel(running)
            served.store.ask_cancel(queued)
            results = [(await served.done(id)).result for id in (running, queued)]
            seconds = time.monotonic() - asked
            return results, seconds, await served.done(after)

    running, queued, after = served.add("wait"), served.add("done"), served.add("done")
    results, seconds, last = uvloop.run(run())
    for result in results:
        assert result.status == 499
        assert result.body == {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}
    assert seconds < 5
    assert served.goes(queued) == []
    assert served.goes(after) == served.goes(running), "the worker stays"
    assert last.result.status == 200


def test_one_that_does_not_stop_is_killed(served, monkeypatch):
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.5)

    async def run():
        async with served.running():
            await served.in_hand(id)
            served.store.ask_cancel(id)
            served.workers.wake()
            return await served.done(id), await served.done(after)

    id, after = served.add("stubborn"), served.add("done")
    cancelled, last = uvloop.run(run())
    assert (cancelled.result.status, cancelled.attempts) == (499, 0)
    assert last.result.status == 200
    assert served.goes(after) != served.goes(id)


def test_progress_while_it_runs(served):
    async def run():
        async with served.running():
            await served.until(lambda: "estimated_end" in served.store.request(id).progress)
            return served.store.request(id)

    id = served.add("wait")
    progress = uvloop.run(run()).progress
    assert (progress["phase"], progress["step"], progress["steps"]) == ("training", 100, 400)
    assert progress["estimated_end"] == pytest.approx(time.time() + 150, abs=LIMIT)


def test_too_late_to_start(served):
    async def run():
        async with served.running():
            await served.in_hand(running)
            return await served.done(late)

    running, late = served.add("wait"), served.add("done", start_deadline=time.time() + 0.5)
    result = uvloop.run(run()).result
    assert (result.status, result.error_type) == (504, "startup_timeout")
    assert result.headers == {"x-fal-request-timeout-type": "user"}
    assert served.goes(late) == []


def test_the_server_ends_and_starts_again(served):
    async def first():
        async with served.running():
            await served.until(lambda: served.store.request(id).progress)

    async def second():
        async with served.running():
            await served.until(lambda: len(served.goes(id)) == 2)
            served.store.ask_cancel(id)
            return await served.done(id)

    id = served.add("wait")
    uvloop.run(first())
    assert served.store.request(id).state == State.QUEUED
    assert (served.folder(id) / "run.json").exists(), "it was let save its state"
    ended = uvloop.run(second())
    assert ended.attempts == 0
    assert served.kinds(id) == ["started", "interrupted", "resumed", "finished"]


def test_a_killed_server_leaves_nothing_running(served):
    id = served.add("done")
    assert served.store.claim().id == id  # and then it was killed

    async def run():
        async with served.running():
            return await served.done(id)

    assert uvloop.run(run()).result.status == 200
    assert served.kinds(id)[0] == "interrupted"


def test_a_worker_that_is_ended_from_outside(served):
    """In order while it runs, and while it has nothing to do."""

    async def run():
        async with served.running():
            await served.until(lambda: len(served.goes(id)) >= 2)
            served.store.ask_cancel(id)
            await served.done(id)
            await served.done(idle)
            os.kill(int(served.goes(idle)[0]), signal.SIGKILL)
            await asyncio.sleep(0.2)
            after = served.add("done")
            return await served.done(after)

    id, idle = served.add("told to end"), served.add("done")
    after = uvloop.run(run())
    assert (after.result.status, after.attempts) == (200, 0)
    assert served.store.request(id).attempts == 0


def test_while_no_worker_gets_ready_requests_wait(served, monkeypatch, tmp_path, caplog):
    (tmp_path / "broken.py").write_text("raise SystemExit(7)")
    good = process._COMMAND
    monkeypatch.setattr(process, "_COMMAND", (sys.executable, str(tmp_path / "broken.py")))

    async def run():
        async with served.running():
            await served.until(lambda: "exit code 7" in caplog.text)
            assert served.store.request(id).state == State.QUEUED
            monkeypatch.setattr(process, "_COMMAND", good)
            return await served.done(id)

    id = served.add("done")
    done = uvloop.run(run())
    assert (done.result.status, done.attempts) == (200, 0)


def test_a_worker_for_each_device(served):
    served.settings = replace(served.settings, devices=("cpu", "auto"))

    async def run():
        async with served.running():
            for id in waiting:
                await served.in_hand(id)
            for id in waiting:
                served.store.ask_cancel(id)
            for id in waiting:
                await served.done(id)

    waiting = [served.add("wait"), served.add("wait")]
    uvloop.run(run())
    assert served.goes(waiting[0]) != served.goes(waiting[1])
