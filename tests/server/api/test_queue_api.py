"""The queue over real sockets: what each call returns, and what the published Python client makes of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import fal_client
import fal_client.client
import httpx
import pytest

from sonolora.server.api import event_stream as streams
from sonolora.server.jobs.records import Result, State

APP = "/fal-ai/ltx23-trainer-v2"
BODY = {"training_data_url": "https://example.com/clips.zip", "number_of_steps": 100}
FILE = {
    "url": "/files/abc/lora.safetensors",
    "content_type": "application/octet-stream",
    "file_name": "lora",
    "file_size": 3,
}
OUTPUT = {"lora_file": FILE, "config_file": FILE, "audio": None, "video": None, "debug_dataset": None}
DONE = Result(status=200, body=OUTPUT, billable_units=100, inference_time=3.5)


def claim(live, id):
    """Run everything in front of it, too."""
    while (taken := live.store.claim()) and taken.id != id:
        live.store.finish(taken.id, DONE)
    assert taken.id == id


class TestStatus:
    def test_queued_running_done(self, live, client, submitted):
        id = submitted()
        queued = client.get(f"{APP}/requests/{id}/status")
        assert queued.status_code == 202
        assert queued.json()["status"] == "IN_QUEUE"
        assert queued.json()["logs"] is None
        assert isinstance(queued.json()["queue_position"], int)

        claim(live, id)
        progress = {"phase": "training", "step": 10, "steps": 100, "steps_per_second": 2.5}
        live.store.record(id, progress=progress)
        live.store.add_logs(id, [(1700000000.25, "INFO", "step 10"), (1700000001.0, "WARN", "déjà")])
        running = client.get(f"{APP}/requests/{id}/status?logs=1")
        assert running.status_code == 202
        assert running.json()["status"] == "IN_PROGRESS"
        assert running.json()["progress"] == progress
        assert "queue_position" not in running.json()
        first = {
            "message": "step 10",
            "level": "INFO",
            "source": "USER",
            "timestamp": "2023-11-14T22:13:20.250000+00:00",
        }
        assert running.json()["logs"][0] == first
        assert running.json()["logs"][1]["message"] == "déjà"

        live.store.finish(id, DONE)
        done = client.get(f"{APP}/requests/{id}/status?logs=true")
        assert done.status_code == 200
        assert done.headers["x-fal-request-id"] == id
        assert done.json()["status"] == "COMPLETED"
        assert done.json()["metrics"] == {"inference_time": 3.5}
        assert len(done.json()["logs"]) == 2
        assert "error" not in done.json()

    @pytest.mark.parametrize("logs", ["0", "false", "False", "1", "true", "True"])
    def test_the_log_is_there_when_asked_for(self, client, logs, submitted):
        id = submitted()
        shown = client.get(f"{APP}/requests/{id}/status", params={"logs": logs}).json()["logs"]
        assert shown == ([] if logs in ("1", "true", "True") else None)

    def test_a_truth_value_that_is_none(self, client, submitted):
        id = submitted()
        answer = client.get(f"{APP}/requests/{id}/status?logs=maybe")
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "logs"])

    def test_a_failure_is_completed(self, live, client, submitted):
        id = submitted()
        live.store.finish(id, Result(status=504, body={}, error="Request timed out", error_type="startup_timeout"))
        body = client.get(f"{APP}/requests/{id}/status").json()
        assert (body["status"], body["error"], body["error_type"]) == (
            "COMPLETED",
            "Request timed out",
            "startup_timeout",
        )
        assert body["metrics"] == {}

    @pytest.mark.parametrize(
        "form", ["{app}/requests/{id}", "{app}/t2a/requests/{id}", "{app}/ic-lora/a2a/requests/{id}"]
    )
    def test_long_forms(self, live, client, form, submitted):
        id = submitted()
        url = form.format(app=APP, id=id)
        assert client.get(f"{url}/status").json()["request_id"] == id
        assert client.get(f"/queue{url}/status").json()["response_url"] == f"{live.address}{APP}/requests/{id}"
        assert client.get(url).status_code == client.get(f"{url}/response").status_code == 400
        assert client.put(f"{url}/cancel").status_code == 202

    @pytest.mark.parametrize("path", ["status", "status/stream", "", "response", "cancel"])
    @pytest.mark.parametrize("app", [APP, "/fal-ai/other", "/workflows/me/wf"])
    def test_unknown_requests(self, client, path, app, submitted):
        known = submitted() if app != APP else "764cabcf-b745-4b3e-ae38-1200304cf45b"
        url = f"{app}/requests/{known}/{path}".rstrip("/")
        answer = client.request("PUT" if path == "cancel" else "GET", url)
        assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


class TestResult:
    def test_too_early(self, client, submitted):
        answer = client.get(f"{APP}/requests/{submitted()}")
        assert (answer.status_code, answer.json()) == (400, {"detail": "Request is still in progress"})

    def test_the_output(self, live, client, submitted):
        id = submitted()
        live.store.finish(id, DONE)
        answer = client.get(f"{APP}/requests/{id}")
        assert answer.status_code == 200
        assert answer.headers["x-fal-billable-units"] == "100"
        assert answer.headers["x-fal-request-id"] == id
        url = f"{live.address}/files/abc/lora.safetensors"
        assert answer.json() == {**OUTPUT, "lora_file": {**FILE, "url": url}, "config_file": {**FILE, "url": url}}
        assert list(answer.json()["lora_file"]) == ["url", "content_type", "file_name", "file_size"]

    @pytest.mark.parametrize(
        ("result", "headers"),
        [
            (
                Result(status=422, body={"detail": [{"loc": ["body"], "msg": "m", "type": "t"}]}),
                {"x-fal-needs-retry": "0"},
            ),
            (
                Result(
                    status=499,
                    body={"detail": "Request cancelled by the client.", "error_type": "client_cancelled"},
                    error_type="client_cancelled",
                ),
                {"x-fal-error-type": "client_cancelled"},
            ),
            (
                Result(
                    status=504,
                    body={"detail": "Request timed out"},
                    error_type="startup_timeout",
                    headers={"X-Fal-Request-Timeout-Type": "user"},
                ),
                {"x-fal-request-timeout-type": "user", "x-fal-error-type": "startup_timeout"},
            ),
        ],
    )
    def test_failures(self, live, client, result, headers, submitted):
        id = submitted()
        live.store.finish(id, result)
        answer = client.get(f"{APP}/requests/{id}")
        assert (answer.status_code, answer.json()) == (result.status, result.body)
        assert answer.headers["x-fal-billable-units"] == "0"
        assert headers.items() <= dict(answer.headers).items()


class TestCancel:
    def test_queued(self, live, client, submitted):
        id = submitted()
        live.woken.clear()
        answer = client.put(f"{APP}/requests/{id}/cancel", headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
        assert live.store.request(id).cancel_requested
        assert live.woken.is_set()

    def test_over_already(self, live, client, submitted):
        id = submitted()
        live.store.finish(id, DONE)
        answer = client.put(f"{APP}/requests/{id}/cancel")
        assert (answer.status_code, answer.json()) == (400, {"status": "ALREADY_COMPLETED"})


def frames(response):
    """The events of a stream as the JSON that they hold, and comments as they are."""
    for part in response.iter_lines():
        if part.startswith("data: "):
            yield json.loads(part.removeprefix("data: "))
        elif part.startswith(":"):
            yield part


class TestStatusStream:
    def test_each_line_of_the_log_comes_once(self, live, client, submitted):
        id = submitted()
        messages = []
        with client.stream("GET", f"{APP}/requests/{id}/status/stream?logs=1") as response:
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            events = frames(response)
            assert next(events)["status"] == "IN_QUEUE"
            claim(live, id)
            live.changed(id)
            event = next(events)
            while event["status"] == "IN_QUEUE":  # the position, as the queue in front empties
                event = next(events)
            assert (event["status"], event["logs"]) == ("IN_PROGRESS", [])
            for number in range(3):
                live.store.add_logs(id, [(0.0, "INFO", f"line {number}")])
                live.changed(id)
                messages += [entry["message"] for entry in next(events)["logs"]]
            live.store.add_logs(id, [(0.0, "INFO", "last")])
            live.store.finish(id, DONE)
            live.changed(id)
            rest = list(events)
        messages += [entry["message"] for event in rest for entry in event["logs"]]
        assert messages == ["line 0", "line 1", "line 2", "last"]
        assert rest[-1]["status"] == "COMPLETED"

    def test_a_change_is_sent_at_once(self, live, client, monkeypatch, submitted):
        monkeypatch.setattr(streams, "POLL_SECONDS", 30.0)
        id = submitted()
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            events = frames(response)
            assert next(events)["logs"] is None
            live.store.finish(id, DONE)
            began = time.monotonic()
            live.changed(id)
            assert next(events)["status"] == "COMPLETED"
            assert time.monotonic() - began < 5

    def test_changes_by_others_are_found(self, live, client, monkeypatch, submitted):
        monkeypatch.setattr(streams, "POLL_SECONDS", 0.1)
        id = submitted()
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            events = frames(response)
            next(events)
            live.store.finish(id, DONE)
            assert next(events)["status"] == "COMPLETED"

    def test_silence_is_broken(self, client, monkeypatch, submitted):
        monkeypatch.setattr(streams, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(streams, "_PING_SECONDS", 0.1)
        id = submitted()
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            events = frames(response)
            next(events)
            assert next(events) == ": ping"


class TestRun:
    @pytest.fixture
    def finisher(self, live, wait_until):
        """Ends the next request that appears in the queue, after a log line and when it may."""
        ids = []

        def finish(result, may):
            wait_until(lambda: ids.append(claimed.id) or True if (claimed := live.store.claim()) else False)
            live.store.add_logs(ids[-1], [(0.0, "INFO", "hello")])
            live.changed(ids[-1])
            assert may.wait(20)
            live.store.finish(ids[-1], result)
            live.changed(ids[-1])

        def start(result, may=None):
            while live.store.claim():
                pass
            if may is None:
                may = threading.Event()
                may.set()
            thread = threading.Thread(target=finish, args=(result, may))
            thread.start()
            threads.append(thread)
            return ids

        threads = []
        yield start
        for thread in threads:
            thread.join(20)

    def test_waits_for_the_result(self, live, client, finisher):
        ids = finisher(DONE)
        answer = client.post(f"/run{APP}/t2a", json=BODY)
        assert answer.status_code == 200
        assert answer.json()["lora_file"]["url"].startswith(live.address)
        assert [answer.headers["x-fal-request-id"]] == ids

    def test_a_failure(self, client, finisher):
        finisher(Result(status=422, body={"detail": []}))
        assert client.post(f"/run{APP}/t2a", json=BODY).status_code == 422

    def test_who_goes_away_cancels(self, live, client, wait_until):
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"/run{APP}/v2a", json=BODY, timeout=0.5)
        wait_until(lambda: live.store.requests(limit=1)[0].cancel_requested)

    def test_streamed(self, live, client, finisher):
        logged, events = threading.Event(), []
        finisher(DONE, logged)
        with client.stream("POST", f"/run{APP}/t2a/stream", json=BODY) as response:
            for event in frames(response):
                events.append(event)
                if event.get("logs"):
                    logged.set()
        assert events[0]["status"] in ("IN_QUEUE", "IN_PROGRESS")
        assert [entry["message"] for event in events[:-1] for entry in event["logs"]] == ["hello"]
        assert events[-1]["lora_file"]["url"].startswith(live.address)

    def test_streamed_failure(self, client, finisher):
        finisher(Result(status=422, body={"detail": []}))
        with client.stream("POST", f"/run{APP}/t2a/stream", json=BODY) as response:
            text = response.read().decode()
        assert text.endswith('event: error\ndata: {"detail":[]}\n\n')

    def test_who_leaves_the_stream_cancels(self, live, client, wait_until):
        with client.stream("POST", f"/run{APP}/t2a/stream", json=BODY) as response:
            id = next(frames(response))["request_id"]
        wait_until(lambda: live.store.request(id).cancel_requested)

    def test_who_leaves_a_status_stream_does_not(self, live, client, submitted, wait_until):
        id, before = submitted(), asyncio.all_tasks(live.loop)
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            next(frames(response))
            following = asyncio.all_tasks(live.loop) - before
            assert following
        wait_until(lambda: not following & asyncio.all_tasks(live.loop))
        assert not live.store.request(id).cancel_requested


class TestKeys:
    def test_without(self, anonymous):
        answer = anonymous.post(f"{APP}/t2a", json=BODY)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(answer.json()["detail"], str)

    @pytest.mark.parametrize("scheme", ["Key", "Bearer", "key"])
    def test_schemes(self, live, scheme, submit):
        assert submit(headers={"Authorization": f"{scheme} {live.key}"}).status_code == 200

    @pytest.mark.parametrize("value", ["Basic {}", "{}", "Key {}x", "Key", "Key x:y", "Key \xff:\xff", "Key :"])
    def test_others(self, live, value, submit):
        header = value.format(live.key).encode("latin-1")
        assert submit(headers={"Authorization": header}).status_code == 401

    def test_revoked(self, live, submit):
        live.keys.revoke(live.key.partition(":")[0])
        assert submit().status_code == 401

    def test_every_call_needs_one(self, client, submitted):
        id = submitted()
        del client.headers["Authorization"]
        for path in (f"requests/{id}/status", f"requests/{id}", f"requests/{id}/status/stream"):
            assert client.get(f"{APP}/{path}").status_code == 401
        assert client.put(f"{APP}/requests/{id}/cancel").status_code == 401
        assert client.post(f"/run{APP}/t2a", json=BODY).status_code == 401


class TestPublishedClient:
    """`fal_client`, with its addresses set to ours."""

    @pytest.fixture
    def fal(self, live, monkeypatch):
        for name, path in (
            ("QUEUE_URL_FORMAT", "/queue/"),
            ("RUN_URL_FORMAT", "/run/"),
            ("REST_URL", "/rest"),
            ("CDN_URL", "/cdn"),
        ):
            monkeypatch.setattr(fal_client.client, name, live.address + path)
        fal = fal_client.SyncClient(key=live.key)
        yield fal
        fal._client.close()  # it has no way of its own to say so

    def test_submit_follow_get(self, live, fal):
        handle = fal.submit(
            "fal-ai/ltx23-trainer-v2/t2a", BODY, priority="low", start_timeout=30, webhook_url="https://x/y"
        )
        assert isinstance(handle.status(), fal_client.Queued)
        claim(live, handle.request_id)
        live.store.add_logs(handle.request_id, [(0.0, "INFO", "hello")])
        running = handle.status(with_logs=True)
        assert isinstance(running, fal_client.InProgress)
        assert running.logs[0]["message"] == "hello"
        live.store.finish(handle.request_id, DONE)
        *_, last = handle.iter_events(with_logs=True)
        assert isinstance(last, fal_client.Completed)
        assert last.metrics == {"inference_time": 3.5}
        assert handle.get()["lora_file"]["file_size"] == 3
        assert fal.result("fal-ai/ltx23-trainer-v2/t2a", handle.request_id)["config_file"]["file_name"] == "lora"

    def test_faults_and_cancel(self, live, fal):
        with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
            fal.submit("fal-ai/ltx23-trainer-v2/a2a", {})
        assert caught.value.status_code == 422
        assert caught.value.message[0]["loc"] == ["body", "training_data_url"]
        handle = fal.submit("fal-ai/ltx23-trainer-v2/ic-lora/a2a", BODY)
        handle.cancel()
        assert live.store.request(handle.request_id).cancel_requested
        live.store.finish(
            handle.request_id, Result(status=499, body={"detail": "gone"}, error="x", error_type="client_cancelled")
        )
        with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
            handle.get()
        assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")
        with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
            handle.cancel()
        assert caught.value.status_code == 400
        assert live.store.request(handle.request_id).state == State.DONE
