"""The queue over real sockets: what each call answers, and what the published Python client makes of it."""

from __future__ import annotations

import json
import re
import socket
import threading
import time

import fal_client
import fal_client.client
import httpx
import pytest

from sonolora.server.api import event_stream as streams
from sonolora.server.api import request_body
from sonolora.server.jobs.records import Result, State
from sonolora.server.net import protocol

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
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def submit(client, body=BODY, endpoint="t2a", **options):
    return client.post(f"{APP}/{endpoint}", json=body, **options)


def submitted(client, **options):
    answer = submit(client, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["request_id"]


def claim(live, id):
    """Run everything in front of it, too."""
    while (taken := live.store.claim()) and taken.id != id:
        live.store.finish(taken.id, DONE)
    assert taken.id == id


def faults(answer):
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-billable-units"] == "0"
    return answer.json()["detail"]


class TestSubmit:
    def test_the_answer(self, live, client):
        answer = submit(client)
        body = answer.json()
        id = body["request_id"]
        url = f"{live.address}{APP}/requests/{id}"
        assert UUID.fullmatch(id)
        assert answer.headers["x-fal-request-id"] == id
        assert answer.headers["content-type"] == "application/json"
        assert "server" not in answer.headers
        position = body.pop("queue_position")
        assert body == {
            "status": "IN_QUEUE",
            "request_id": id,
            "response_url": url,
            "status_url": f"{url}/status",
            "cancel_url": f"{url}/cancel",
            "logs": None,
            "metrics": {},
            "gateway_request_id": id,
        }
        assert position == live.store.queue_position(id)
        assert live.woken.is_set()
        assert live.store.body(id) == BODY

    @pytest.mark.parametrize(
        ("endpoint", "mode"), [("t2a", "t2a"), ("ic-lora/a2a", "a2a"), ("audio-extend-prefix", "audio-extend-prefix")]
    )
    def test_endpoints_and_their_modes(self, live, client, endpoint, mode):
        request = live.store.request(submitted(client, endpoint=endpoint))
        assert (request.endpoint, request.mode) == (endpoint, mode)

    def test_headers_and_query(self, live, client):
        before = time.time()
        id = submitted(
            client,
            params={"fal_webhook": "http://hook.example/x?a=b"},
            headers={
                "X-Fal-Queue-Priority": "low",
                "X-Fal-Request-Timeout": "9000",
                "X-Fal-Request-Start-Timeout": "30.5",
                "X-Fal-Runner-Hint": "lora-1",
                "X-Fal-No-Retry": "yes",
                "X-Fal-Store-IO": "0",
                "X-Fal-Tags": "a=b",
                "X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 3600}',
            },
        )
        request = live.store.request(id)
        assert request.priority == 1
        assert before + 30.5 <= request.start_deadline <= time.time() + 30.5
        assert request.webhook == "http://hook.example/x?a=b"
        assert request.no_retry
        assert request.lifetime == 3600

    def test_without_them(self, live, client):
        id = submitted(client, headers={"X-Fal-Queue-Priority": "urgent", "X-Fal-No-Retry": "0"})
        request = live.store.request(id)
        assert (request.priority, request.start_deadline, request.webhook) == (0, None, None)
        assert (request.no_retry, request.lifetime) == (False, None)

    @pytest.mark.parametrize(
        ("change", "loc", "type"),
        [
            ({"training_data_url": None}, ["training_data_url"], "string_type"),
            ({"rank": 9}, ["rank"], "literal_error"),
            ({"number_of_steps": 99}, ["number_of_steps"], "greater_than_equal"),
            ({"number_of_steps": 20001}, ["number_of_steps"], "less_than_equal"),
            ({"number_of_steps": "many"}, ["number_of_steps"], "int_parsing"),
            ({"number_of_steps": 10**4000}, ["number_of_steps"], "less_than_equal"),
            ({"debug_dataset": "perhaps"}, ["debug_dataset"], "bool_parsing"),
            ({"validation": [{}]}, ["validation", 0, "prompt"], "missing"),
            ({"validation": [{"prompt": ""}] * 3}, ["validation"], "too_long"),
            ({"validation": {"prompt": ""}}, ["validation"], None),
            ({"trigger_phrase": "\ud800"}, [], "json_invalid"),
            ({"other": {"\udfff": 1}}, [], "json_invalid"),
            ({"training_data_url": "clips.zip"}, ["training_data_url"], "value_error"),
            ({"training_data_url": "/etc/passwd"}, ["training_data_url"], "value_error"),
            ({"training_data_url": "file:///etc/passwd"}, ["training_data_url"], "value_error"),
            ({"training_data_url": "ftp://x/y.zip"}, ["training_data_url"], "value_error"),
            ({"training_data_url": "http://"}, ["training_data_url"], "value_error"),
            ({"training_data_url": "data:nothing"}, ["training_data_url"], "value_error"),
            ({"training_data_url": ""}, ["training_data_url"], "string_too_short"),
        ],
    )
    def test_faults_of_the_body(self, client, change, loc, type):
        content = json.dumps({**BODY, **change})
        detail = faults(client.post(f"{APP}/t2a", content=content))
        assert detail[0]["loc"] == ["body", *loc]
        assert type is None or detail[0]["type"] == type
        assert detail[0]["msg"]
        if type == "value_error":
            assert detail[0]["msg"].startswith("value must be a valid URL: ")
            assert detail[0]["input"] == change["training_data_url"]

    def test_all_faults_at_once(self, client):
        detail = faults(submit(client, {"rank": 9, "stg_scale": 4}))
        assert [item["loc"][-1] for item in detail] == ["training_data_url", "rank", "stg_scale"]
        assert detail[0] == {"loc": ["body", "training_data_url"], "msg": "Field required", "type": "missing"}
        assert detail[1]["ctx"] == {"expected": "8, 16, 32, 64 or 128"}

    def test_urls_of_validation_entries(self, client):
        body = {
            **BODY,
            "validation": [{"prompt": "a", "video_url": "https://x/a.mp4"}, {"prompt": "b", "video_url": "b"}],
        }
        detail = faults(submit(client, body, "v2a"))
        assert [item["loc"] for item in detail] == [["body", "validation", 1, "video_url"]]

    @pytest.mark.parametrize(
        "url", ["HTTPS://Host/x", "http://u:p@h:1/x y.zip", "data:application/zip;base64,UEs=", "data:,"]
    )
    def test_urls_that_are_taken(self, client, url):
        assert submit(client, {**BODY, "training_data_url": url}).status_code == 200

    def test_many_names_of_which_one_comes_twice(self, client):
        names = b",".join(b'"%d":0' % (number % 9_999) for number in range(10_000))
        detail = faults(client.post(f"{APP}/t2a", content=b"{" + names + b"}"))
        assert detail[0]["msg"] == 'Invalid JSON: duplicate key "0"'

    @pytest.mark.parametrize(
        ("content", "type"),
        [
            (b"", "json_invalid"),
            (b"{", "json_invalid"),
            (b"[" * 100_000, "json_invalid"),
            (b'{"a":' * 16_000, "json_invalid"),
            (b'{"training_data_url": "https://x/a", "rank": 8, "rank": 16}', "json_invalid"),
            (b'{"rank": ' + b"1" * 5000 + b"}", "json_invalid"),
            (b'"\xff"', "json_invalid"),
            (b"[]", "model_attributes_type"),
            (b"null", "model_attributes_type"),
            (b"NaN", "model_attributes_type"),
            (b'{"training_data_url": "https://x/a", "learning_rate": NaN}', "finite_number"),
            (b'{"training_data_url": "https://x/a", "learning_rate": 1e999}', "finite_number"),
            (b'{"training_data_url": "https://x/a", "number_of_steps": Infinity}', "finite_number"),
        ],
    )
    def test_bodies_that_are_no_request(self, client, content, type):
        detail = faults(client.post(f"{APP}/t2a", content=content, headers={"Content-Type": "application/json"}))
        assert detail[0]["type"] == type
        assert detail[0]["loc"][0] == "body"

    def test_long_inputs_are_not_sent_back_whole(self, client):
        detail = faults(submit(client, {**BODY, "rank": "9" * 90_000}))
        assert len(json.dumps(detail)) < 5000

    def test_all_of_unicode_is_taken(self, live, client):
        body = {**BODY, "trigger_phrase": "\U0001f514 \0 ü"}  # escaped by json, in two halves
        assert live.store.body(submitted(client, body=body)) == body

    def test_fields_that_are_not_known_are_ignored_and_the_log_says_so(self, live, client):
        body = {**BODY, "number_of_stepz": 5, "x" * 5000: [{}], "a\x1bb": 1}
        first, second, third = (line for line in live.store.logs(submitted(client, body=body)))
        assert {first.level, second.level} == {"WARN"}
        assert first.message == "unknown field number_of_stepz has no effect; did you mean number_of_steps?"
        assert second.message == f"unknown field {'x' * 80} has no effect"
        assert third.message == r"unknown field 'a\x1bb' has no effect"
        many = {**BODY, **{f"field{n}": n for n in range(5000)}}
        assert len(live.store.logs(submitted(client, body=many))) == 10

    @pytest.mark.parametrize("name", ["X-Fal-Request-Timeout", "X-Fal-Request-Start-Timeout"])
    @pytest.mark.parametrize("said", ["soon", "0.1", "-3", "nan", "inf", ""])
    def test_bad_timeouts(self, client, name, said):
        answer = submit(client, headers={name: said})
        assert answer.status_code == 400
        assert answer.json()["error_type"] == answer.headers["x-fal-error-type"] == "bad_request"

    @pytest.mark.parametrize(
        "said", ["{", "[]", '{"expiration_duration_seconds": "1"}', '{"expiration_duration_seconds": 0}']
    )
    def test_bad_lifetimes(self, client, said):
        assert submit(client, headers={"X-Fal-Object-Lifecycle-Preference": said}).json()["error_type"] == "bad_request"

    @pytest.mark.parametrize(
        "query", ["fal_webhook=ftp://x", "fal_webhook=", "fal_max_queue_length=x", "fal_max_queue_length=0"]
    )
    def test_bad_queries(self, client, query):
        detail = faults(client.post(f"{APP}/t2a?{query}", json=BODY))
        assert detail[0]["loc"] == ["query", query.partition("=")[0]]

    def test_a_full_queue(self, live, client):
        for _ in range(live.settings.queue_limit):
            submitted(client)
        answer = submit(client)
        assert answer.status_code == 429
        assert answer.json()["error_type"] == "concurrent_requests_limit"
        assert answer.headers["x-fal-needs-retry"] == "1"
        _, other = live.keys.add("other")
        assert submit(client, headers={"Authorization": f"Key {other}"}).status_code == 200

    def test_a_queue_that_is_too_long_for_the_client(self, client):
        submitted(client, params={"fal_max_queue_length": 1})
        assert submit(client, params={"fal_max_queue_length": 1}).status_code == 429
        assert submit(client, params={"fal_max_queue_length": 2}).status_code == 200

    @pytest.mark.parametrize("path", ["t2v", "t2a/b", "ic-lora", "ic-lora/t2a", "requests"])
    def test_unknown_endpoints(self, client, path):
        answer = client.post(f"{APP}/{path}", json=BODY)
        assert answer.status_code == 404
        assert answer.headers["x-fal-billable-units"] == "0"

    def test_a_body_that_is_too_large(self, live, client):
        answer = submit(client, {**BODY, "trigger_phrase": "x" * live.settings.max_body_bytes})
        assert answer.status_code == 413

        def pieces():
            for _ in range(20):
                yield b" " * 10_000

        assert client.post(f"{APP}/t2a", content=pieces()).status_code == 413

    def test_a_body_that_is_too_slow(self, client, monkeypatch):
        monkeypatch.setattr(request_body, "IDLE_SECONDS", 0.1)

        def pieces():
            yield b"{"
            time.sleep(0.5)
            yield b"}"

        assert client.post(f"{APP}/t2a", content=pieces()).status_code == 408


class TestStatus:
    def test_queued_running_done(self, live, client):
        id = submitted(client)
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
    def test_the_log_is_there_when_asked_for(self, client, logs):
        id = submitted(client)
        shown = client.get(f"{APP}/requests/{id}/status", params={"logs": logs}).json()["logs"]
        assert shown == ([] if logs in ("1", "true", "True") else None)

    def test_a_truth_value_that_is_none(self, client):
        id = submitted(client)
        assert faults(client.get(f"{APP}/requests/{id}/status?logs=maybe"))[0]["loc"] == ["query", "logs"]

    def test_a_failure_is_completed(self, live, client):
        id = submitted(client)
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
    def test_long_forms(self, live, client, form):
        id = submitted(client)
        url = form.format(app=APP, id=id)
        assert client.get(f"{url}/status").json()["request_id"] == id
        assert client.get(f"/queue{url}/status").json()["response_url"] == f"{live.address}{APP}/requests/{id}"
        assert client.get(url).status_code == client.get(f"{url}/response").status_code == 400
        assert client.put(f"{url}/cancel").status_code == 202

    @pytest.mark.parametrize("path", ["status", "status/stream", "", "response", "cancel"])
    @pytest.mark.parametrize("app", [APP, "/fal-ai/other", "/workflows/me/wf"])
    def test_unknown_requests(self, client, path, app):
        known = submitted(client) if app != APP else "764cabcf-b745-4b3e-ae38-1200304cf45b"
        url = f"{app}/requests/{known}/{path}".rstrip("/")
        answer = client.request("PUT" if path == "cancel" else "GET", url)
        assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


class TestResult:
    def test_too_early(self, client):
        answer = client.get(f"{APP}/requests/{submitted(client)}")
        assert (answer.status_code, answer.json()) == (400, {"detail": "Request is still in progress"})

    def test_the_output(self, live, client):
        id = submitted(client)
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
    def test_failures(self, live, client, result, headers):
        id = submitted(client)
        live.store.finish(id, result)
        answer = client.get(f"{APP}/requests/{id}")
        assert (answer.status_code, answer.json()) == (result.status, result.body)
        assert answer.headers["x-fal-billable-units"] == "0"
        assert headers.items() <= dict(answer.headers).items()


class TestCancel:
    def test_queued(self, live, client):
        id = submitted(client)
        live.woken.clear()
        answer = client.put(f"{APP}/requests/{id}/cancel", headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
        assert live.store.request(id).cancel_requested
        assert live.woken.is_set()

    def test_over_already(self, live, client):
        id = submitted(client)
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
    def test_each_line_of_the_log_comes_once(self, live, client):
        id = submitted(client)
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

    def test_a_change_is_sent_at_once(self, live, client, monkeypatch):
        monkeypatch.setattr(streams, "POLL_SECONDS", 30.0)
        id = submitted(client)
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            events = frames(response)
            assert next(events)["logs"] is None
            time.sleep(0.3)
            live.store.finish(id, DONE)
            began = time.monotonic()
            live.changed(id)
            assert next(events)["status"] == "COMPLETED"
            assert time.monotonic() - began < 5

    def test_changes_by_others_are_found(self, live, client, monkeypatch):
        monkeypatch.setattr(streams, "POLL_SECONDS", 0.1)
        id = submitted(client)
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            events = frames(response)
            next(events)
            live.store.finish(id, DONE)
            assert next(events)["status"] == "COMPLETED"

    def test_silence_is_broken(self, client, monkeypatch):
        monkeypatch.setattr(streams, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(streams, "_PING_SECONDS", 0.1)
        id = submitted(client)
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            events = frames(response)
            next(events)
            assert next(events) == ": ping"


class TestRun:
    @pytest.fixture
    def finisher(self, live):
        """Ends the next request that appears in the queue."""
        ids = []

        def finish(result):
            while not (taken := live.store.claim()):
                time.sleep(0.02)
            ids.append(taken.id)
            live.store.add_logs(taken.id, [(0.0, "INFO", "hello")])
            live.changed(taken.id)
            time.sleep(0.3)
            live.store.finish(taken.id, result)
            live.changed(taken.id)

        def start(result):
            while live.store.claim():
                pass
            thread = threading.Thread(target=finish, args=(result,))
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

    def test_who_goes_away_cancels(self, live, client):
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"/run{APP}/v2a", json=BODY, timeout=0.5)
        wait_until(lambda: live.store.requests(limit=1)[0].cancel_requested)

    def test_streamed(self, live, client, finisher):
        finisher(DONE)
        with client.stream("POST", f"/run{APP}/t2a/stream", json=BODY) as response:
            events = list(frames(response))
        assert events[0]["status"] in ("IN_QUEUE", "IN_PROGRESS")
        assert [entry["message"] for event in events[:-1] for entry in event["logs"]] == ["hello"]
        assert events[-1]["lora_file"]["url"].startswith(live.address)

    def test_streamed_failure(self, client, finisher):
        finisher(Result(status=422, body={"detail": []}))
        with client.stream("POST", f"/run{APP}/t2a/stream", json=BODY) as response:
            text = response.read().decode()
        assert text.endswith('event: error\ndata: {"detail":[]}\n\n')

    def test_who_leaves_the_stream_cancels(self, live, client):
        with client.stream("POST", f"/run{APP}/t2a/stream", json=BODY) as response:
            id = next(frames(response))["request_id"]
        wait_until(lambda: live.store.request(id).cancel_requested)

    def test_who_leaves_a_status_stream_does_not(self, live, client):
        id = submitted(client)
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as response:
            next(frames(response))
        time.sleep(0.3)
        assert not live.store.request(id).cancel_requested


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


class TestKeys:
    def test_without(self, anonymous):
        answer = anonymous.post(f"{APP}/t2a", json=BODY)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(answer.json()["detail"], str)

    @pytest.mark.parametrize("scheme", ["Key", "Bearer", "key"])
    def test_schemes(self, live, client, scheme):
        assert submit(client, headers={"Authorization": f"{scheme} {live.key}"}).status_code == 200

    @pytest.mark.parametrize("value", ["Basic {}", "{}", "Key {}x", "Key", "Key x:y", "Key \xff:\xff", "Key :"])
    def test_others(self, live, client, value):
        header = value.format(live.key).encode("latin-1")
        assert submit(client, headers={"Authorization": header}).status_code == 401

    def test_revoked(self, live, client):
        live.keys.revoke(live.key.partition(":")[0])
        assert submit(client).status_code == 401

    def test_every_call_needs_one(self, client):
        id = submitted(client)
        del client.headers["Authorization"]
        for path in (f"requests/{id}/status", f"requests/{id}", f"requests/{id}/status/stream"):
            assert client.get(f"{APP}/{path}").status_code == 401
        assert client.put(f"{APP}/requests/{id}/cancel").status_code == 401
        assert client.post(f"/run{APP}/t2a", json=BODY).status_code == 401


class TestHttp:
    def test_every_answer_has_an_id_and_is_json(self, client):
        for method, path in [("GET", "/nowhere/at/all"), ("DELETE", f"{APP}/t2a"), ("GET", f"{APP}/t2a"), ("GET", "/")]:
            answer = client.request(method, path)
            assert UUID.fullmatch(answer.headers["x-fal-request-id"])
            answer.json()
        for path in ("/queue/nowhere", "/nowhere", f"{APP}/t2v"):
            detail = client.post(path, json=BODY).json()["detail"]
            assert detail.startswith(f"Path {path.removeprefix(APP)} not found. There are: {APP}/t2a, {APP}/a2a, ")
        wrong = client.delete(f"{APP}/t2a")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")

    def test_browsers_may_call(self, client):
        asked = "authorization,content-type,x-fal-queue-priority,x-fal-target-url"
        answer = client.options(
            f"{APP}/t2a",
            headers={
                "Origin": "https://app.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": asked,
            },
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert set(asked.split(",")) <= set(answer.headers["access-control-allow-headers"].lower().split(","))
        assert "PUT" in answer.headers["access-control-allow-methods"]
        plain = client.get(f"{APP}/requests/x", headers={"Origin": "https://app.example"})
        assert plain.headers["access-control-allow-origin"] == "*"
        assert "x-fal-request-id" in plain.headers["access-control-expose-headers"]

    def test_refusals_can_be_read_by_browsers(self, anonymous):
        answer = anonymous.post(f"{APP}/t2a", headers={"Origin": "https://app.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "*")

    def raw(self, live, content):
        with socket.create_connection(("127.0.0.1", live.settings.port), timeout=10) as connection:
            connection.sendall(content)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer

    def test_what_is_not_http(self, live):
        answer = self.raw(live, b"\x16\x03\x01 hello\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]

    def test_endless_headers(self, live):
        with socket.create_connection(("127.0.0.1", live.settings.port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            sent = 0
            try:
                while sent < 100_000_000:
                    sent += connection.send(b"x" * 10_000)
            except OSError:  # reset or broken, as it comes
                pass
        assert sent < 10_000_000

    @pytest.mark.parametrize("begin", [b"", b"\r\n", b"GET / HTTP/1.1\r\nX: "])
    def test_headers_that_do_not_come(self, live, monkeypatch, begin):
        monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)
        began = time.monotonic()
        assert self.raw(live, begin) == b""
        assert 0.2 < time.monotonic() - began < 5

    def test_the_rest_of_a_body_that_is_not_read(self, live, monkeypatch):
        monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
        answer = self.raw(live, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
        assert answer.startswith(b"HTTP/1.1 404")

    def test_an_answer_that_is_not_taken(self, live, monkeypatch, tmp_path):
        monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.3)
        big = tmp_path / "big.bin"
        big.write_bytes(bytes(9_000_000))
        file = live.storage.adopt(big, "big.bin", "application/octet-stream", request_id="none", expires=None)
        with socket.create_connection(("127.0.0.1", live.settings.port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(f"GET {file.address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(1)

            def cut_off():
                try:
                    return connection.send(b"x") == 0
                except OSError:  # reset or broken, as it comes
                    return True

            wait_until(cut_off)

    def test_many_requests_on_one_connection(self, live):
        request = b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000 + b"\r\n\r\n"
        last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert self.raw(live, request * 300 + last).count(b"HTTP/1.1 200") == 301


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
