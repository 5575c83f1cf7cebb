"""The workers' scheduling, with workers that play a part; and once with real ones, from an upload to a LoRA."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
import uvloop

from sonolora.server.database.faults import StoreError
from sonolora.server.jobs import active_job, workers
from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.placing import worker_process as process

KILLED = "the worker was killed by SIGKILL (out of memory?)"
LIMIT = 30  # seconds for anything to happen, on a busy machine


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
    assert served.changed.count(first) >= 3


def test_a_line_of_the_log_says_which_attempt_on_which_device_for_whom(served, log_lines):
    async def run():
        async with served.running():
            await served.done(id)

    key = served.store.keys.add("laptop", owner="Jo")[0]
    id = served.add("once", key_id=key)
    uvloop.run(run())
    lines = [line for line in log_lines() if line.get("run") == id]
    assert [(line["message"].partition(": ")[2].split()[0], line["attempt"]) for line in lines] == [
        ("started", 1),
        ("the", 1),  # worker was killed
        ("started", 2),
        ("done", 2),
    ]
    for line in lines:
        assert (line["key"], line["node"], line["level"]) == (key, "auto", "ERROR" if line is lines[1] else "INFO")
    assert lines[3]["owner"] == "Jo" and lines[3]["duration"] > 0


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

        return await served.storage.receive(served.storage.new("clips.zip", "application/zip", key_id="k"), chunks())

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
        "kind": "train",
        "mode": "a2a",
        "base": "tiny",
        "body": body,
        "sources": {
            "local": False,
            "private": False,
            "known": {body["training_data_url"]: str(file.path), "http://localhost:8000/files/gone/a.wav": None},
        },
        "settings": served.settings.run_settings("a2a"),
    }


@pytest.mark.parametrize(
    ("part", "status", "kind", "detail", "goes"),
    [
        ("bad", 422, None, [{"loc": ["body", "training_data_url"], "msg": "no sound", "type": "value_error"}], 1),
        ("explained", 500, "internal_error", "the disk is full", 1),
        ("harmed", 500, "internal_error", "Internal Server Error", 1),
        ("kill", 503, "runner_disconnected", f"Runner disconnected: {KILLED}", 2),
        ("exit", 503, "runner_disconnected", "Runner disconnected: the worker exited with code 3", 2),
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


def test_a_fault_of_the_database_in_the_middle_of_runs_loses_nothing(served, monkeypatch, caplog):
    """Everything that is written fails for a while; the runs on both devices go on, and nothing is said twice."""
    served.settings = replace(served.settings, devices=("cpu", "auto"))
    broken, failures = threading.Event(), []

    def fail(method):
        def call(*args, **named):
            if broken.is_set():
                failures.append(method.__name__)
                raise StoreError(served.settings.database_address, "the disk is full")
            return method(*args, **named)

        return call

    for name in ("record", "finish", "add_event", "requeue", "claim"):
        monkeypatch.setattr(served.store, name, fail(getattr(served.store, name)))

    async def run():
        async with served.running():
            await served.in_hand(waiting)
            broken.set()
            (served.folder(held) / "go on").touch()
            await served.until(lambda: len(failures) > 5)
            assert served.health.waiting_for == "the server's database cannot be used: the disk is full"
            broken.clear()
            first = await served.done(held)
            served.store.request_cancel(waiting)
            return first, await served.done(waiting)

    held, waiting = served.add("held"), served.add("wait")
    first, second = uvloop.run(run())
    assert (first.result.status, second.result.status) == (200, 499)
    assert (first.attempts, second.attempts) == (0, 0)
    assert len(served.goes(held)) == len(served.goes(waiting)) == 1, "no run was interrupted"
    assert served.lines(held) == [
        "started",
        "training",
        "step 100 of 100: loss 1.2500, 4 steps a second",
        "trained",
        "odd",
    ]
    assert served.kinds(held) == ["started", "finished"]
    assert served.health.waiting_for is None
    assert len([line for line in caplog.records if line.levelname == "ERROR"]) == 1, "said once"
    assert "Traceback" not in caplog.text


def test_the_server_stops_though_the_database_fails(served, monkeypatch):
    def fail(*_, **__):
        raise StoreError(served.settings.database_address, "the disk is full")

    monkeypatch.setattr(workers, "_LAST_WRITE_SECONDS", 0.1)

    async def first():
        async with served.running():
            await served.in_hand(id)
            for name in ("record", "requeue"):
                monkeypatch.setattr(served.store, name, fail)

    id = served.add("wait")
    began = time.monotonic()
    uvloop.run(first())
    assert time.monotonic() - began < LIMIT
    assert served.store.request(id).state == State.RUNNING
    monkeypatch.undo()
    assert (served.folder(id) / "run.json").exists(), "it was let save its state"


def test_no_run_is_started_without_room_on_the_disk(served, monkeypatch):
    usage = shutil.disk_usage(served.settings.folder)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage._replace(free=workers.MIN_FREE_BYTES - 1))

    async def run():
        async with served.running():
            await served.until(lambda: served.health.waiting_for)
            assert served.health.waiting_for == "the server's disk has less than 256 MiB left"
            assert served.store.request(id).state == State.QUEUED
            monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
            return await served.done(id)

    id = served.add("done")
    assert uvloop.run(run()).result.status == 200
    assert served.health.waiting_for is None


def test_a_run_that_the_full_disk_ended_goes_on_when_there_is_room(served, monkeypatch):
    usage = shutil.disk_usage(served.settings.folder)
    free = [1 << 40, workers.MIN_FREE_BYTES - 1]
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage._replace(free=free[0]))

    async def run():
        async with served.running():
            await served.until(lambda: len(served.goes(full)) == 1)
            free.reverse()
            (served.folder(full) / "go on").touch()
            await served.until(lambda: served.health.waiting_for)
            free.reverse()  # at once: what counts is how it was when the run ended
            return await served.done(full)

    full = served.add("full")
    done = uvloop.run(run())
    assert (done.result.status, done.attempts, len(served.goes(full))) == (200, 0, 2)
    assert "the server's disk is full; the run continues when there is space" in served.lines(full)


def test_a_run_that_is_too_large_for_the_disk_fails(served):
    async def run():
        async with served.running():
            await served.in_hand(id)
            (served.folder(id) / "go on").touch()
            return await served.done(id)

    id = served.add("full")
    assert uvloop.run(run()).result.body["detail"] == "lora.safetensors could not be written: the disk is full"


def test_a_crash_is_a_new_attempt(served):
    async def run():
        async with served.running():
            return await served.done(id)

    id = served.add("once")
    done = uvloop.run(run())
    assert (done.result.status, done.attempts, len(set(served.goes(id)))) == (200, 1, 2)
    assert served.kinds(id) == ["started", "crashed", "resumed", "finished"]
    assert f"{KILLED}; trying again" in served.lines(id)


def test_a_request_that_nobody_can_follow_ends_and_the_queue_goes_on(served, monkeypatch):
    def told(journal, event):  # noqa: ARG001
        if not told.once:
            told.once = True
            raise RecursionError(event)

    async def run():
        async with served.running():
            return await served.done(id), await served.done(following)

    told.once = False
    monkeypatch.setattr(workers.Journal, "add", told)
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
            served.store.request_cancel(running)
            served.store.request_cancel(queued)
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
    monkeypatch.setattr(active_job, "STOP_SECONDS", 0.5)

    async def run():
        async with served.running():
            await served.in_hand(id)
            served.store.request_cancel(id)
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
            served.store.request_cancel(id)
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
            served.store.request_cancel(id)
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
            await served.until(lambda: "exited with code 7" in caplog.text)
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
                served.store.request_cancel(id)
            for id in waiting:
                await served.done(id)

    waiting = [served.add("wait"), served.add("wait")]
    uvloop.run(run())
    assert served.goes(waiting[0]) != served.goes(waiting[1])


def test_a_device_without_a_worker_does_no_harm_to_the_others(served, monkeypatch, caplog):
    caplog.set_level("INFO")
    served.settings = replace(served.settings, devices=("bad", "none", "cpu"))
    start = asyncio.create_subprocess_exec

    async def exec(*command, **more):
        if command[-1] == "none":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return await start(*command, **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", exec)

    async def run():
        async with served.running():
            await served.done(long)
            await served.until(lambda: caplog.text.count("on bad starts in") > 2)
            return await served.done(served.add("done"))

    long = served.add("done")
    assert uvloop.run(run()).result.status == 200
    assert "no worker on bad: the worker exited with code 9" in caplog.text
    assert "no worker on none: its process could not be started: Cannot allocate memory" in caplog.text
    pauses = [float(pause) for pause in re.findall(r"on bad starts in (\S+) s", caplog.text)]
    assert pauses[:3] == [0.02, 0.04, 0.08], "longer and longer"
    assert "Traceback" not in caplog.text


def test_the_time_that_a_run_took_is_not_that_of_a_clock_which_is_set(served, monkeypatch):
    real = time.time

    async def run():
        async with served.running():
            await served.until(lambda: len(served.goes(id)) == 1)
            monkeypatch.setattr(time, "time", lambda: real() - 86_400)
            (served.folder(id) / "go on").touch()
            return await served.done(id)

    id = served.add("held")
    assert 0 <= uvloop.run(run()).result.inference_time < LIMIT
