"""Submissions over real sockets: what goes into the queue, and what is rejected."""

from __future__ import annotations

import base64
import json
import re
import select
import socket
import time

import pytest

from sonolora.server.api import request_body

APP = "/fal-ai/ltx23-trainer-v2"
BODY = {"training_data_url": "https://example.com/clips.zip", "number_of_steps": 100}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def faults(answer):
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-billable-units"] == "0"
    return answer.json()["detail"]


def test_the_answer(live, submit):
    answer = submit()
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
def test_endpoints_and_their_modes(live, endpoint, mode, submitted):
    request = live.store.request(submitted(endpoint=endpoint))
    assert (request.endpoint, request.mode) == (endpoint, mode)


def test_headers_and_query(live, submitted):
    before = time.time()
    id = submitted(
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


def test_without_them(live, submitted):
    id = submitted(headers={"X-Fal-Queue-Priority": "urgent", "X-Fal-No-Retry": "0"})
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
def test_faults_of_the_body(client, change, loc, type):
    content = json.dumps({**BODY, **change})
    detail = faults(client.post(f"{APP}/t2a", content=content))
    assert detail[0]["loc"] == ["body", *loc]
    assert type is None or detail[0]["type"] == type
    assert detail[0]["msg"]
    if type == "value_error":
        assert detail[0]["msg"].startswith("value must be a valid URL: ")
        assert detail[0]["input"] == change["training_data_url"]


def test_all_faults_at_once(submit):
    detail = faults(submit({"rank": 9, "stg_scale": 4}))
    assert [item["loc"][-1] for item in detail] == ["training_data_url", "rank", "stg_scale"]
    assert detail[0] == {"loc": ["body", "training_data_url"], "msg": "Field required", "type": "missing"}
    assert detail[1]["ctx"] == {"expected": "8, 16, 32, 64 or 128"}


def test_urls_of_validation_entries(submit):
    body = {
        **BODY,
        "validation": [{"prompt": "a", "video_url": "https://x/a.mp4"}, {"prompt": "b", "video_url": "b"}],
    }
    detail = faults(submit(body, "v2a"))
    assert [item["loc"] for item in detail] == [["body", "validation", 1, "video_url"]]


@pytest.mark.parametrize(
    "url", ["HTTPS://Host/x", "http://u:p@h:1/x y.zip", "data:application/zip;base64,UEs=", "data:,"]
)
def test_urls_that_are_taken(url, submit):
    assert submit({**BODY, "training_data_url": url}).status_code == 200


def test_many_names_of_which_one_comes_twice(client):
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
def test_bodies_that_are_no_request(client, content, type):
    detail = faults(client.post(f"{APP}/t2a", content=content, headers={"Content-Type": "application/json"}))
    assert detail[0]["type"] == type
    assert detail[0]["loc"][0] == "body"


def test_long_inputs_are_not_sent_back_whole(submit):
    detail = faults(submit({**BODY, "rank": "9" * 90_000}))
    assert len(json.dumps(detail)) < 5000


def test_all_of_unicode_is_taken(live, submitted):
    body = {**BODY, "trigger_phrase": "\U0001f514 \0 ü"}  # escaped by json, in two halves
    assert live.store.body(submitted(body=body)) == body


def test_fields_that_are_not_known_are_ignored_and_the_log_says_so(live, submitted):
    body = {**BODY, "number_of_stepz": 5, "x" * 5000: [{}], "a\x1bb": 1}
    first, second, third = (line for line in live.store.logs(submitted(body=body)))
    assert {first.level, second.level} == {"WARN"}
    assert first.message == "unknown field number_of_stepz has no effect; did you mean number_of_steps?"
    assert second.message == f"unknown field {'x' * 80} has no effect"
    assert third.message == r"unknown field 'a\x1bb' has no effect"
    many = {**BODY, **{f"field{n}": n for n in range(5000)}}
    assert len(live.store.logs(submitted(body=many))) == 10


@pytest.mark.parametrize("name", ["X-Fal-Request-Timeout", "X-Fal-Request-Start-Timeout"])
@pytest.mark.parametrize("said", ["soon", "0.1", "-3", "nan", "inf", ""])
def test_bad_timeouts(name, said, submit):
    answer = submit(headers={name: said})
    assert answer.status_code == 400
    assert answer.json()["error_type"] == answer.headers["x-fal-error-type"] == "bad_request"


@pytest.mark.parametrize(
    "said", ["{", "[]", '{"expiration_duration_seconds": "1"}', '{"expiration_duration_seconds": 0}']
)
def test_bad_lifetimes(said, submit):
    assert submit(headers={"X-Fal-Object-Lifecycle-Preference": said}).json()["error_type"] == "bad_request"


@pytest.mark.parametrize(
    "query", ["fal_webhook=ftp://x", "fal_webhook=", "fal_max_queue_length=x", "fal_max_queue_length=0"]
)
def test_bad_queries(client, query):
    detail = faults(client.post(f"{APP}/t2a?{query}", json=BODY))
    assert detail[0]["loc"] == ["query", query.partition("=")[0]]


def test_a_full_queue(live, submit, submitted):
    for _ in range(live.settings.queue_limit):
        submitted()
    answer = submit()
    assert answer.status_code == 429
    assert answer.json()["error_type"] == "concurrent_requests_limit"
    assert answer.headers["x-fal-needs-retry"] == "1"
    _, other = live.keys.add("other")
    assert submit(headers={"Authorization": f"Key {other}"}).status_code == 200


def test_a_queue_that_is_too_long_for_the_client(submit, submitted):
    submitted(params={"fal_max_queue_length": 1})
    assert submit(params={"fal_max_queue_length": 1}).status_code == 429
    assert submit(params={"fal_max_queue_length": 2}).status_code == 200


@pytest.mark.parametrize("path", ["t2v", "t2a/b", "ic-lora", "ic-lora/t2a", "requests"])
def test_unknown_endpoints(client, path):
    answer = client.post(f"{APP}/{path}", json=BODY)
    assert answer.status_code == 404
    assert answer.headers["x-fal-billable-units"] == "0"


def test_a_body_that_is_too_large(live, client, submit):
    answer = submit({**BODY, "trigger_phrase": "x" * live.settings.max_body_bytes})
    assert answer.status_code == 413

    def pieces():
        for _ in range(20):
            yield b" " * 10_000

    assert client.post(f"{APP}/t2a", content=pieces()).status_code == 413


def test_a_body_that_is_too_slow(live, monkeypatch):
    monkeypatch.setattr(request_body, "IDLE_SECONDS", 0.2)
    head = f"POST {APP}/t2a HTTP/1.1\r\nHost: x\r\nAuthorization: Key {live.key}\r\nContent-Length: 100\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", live.settings.port), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_takes_too_long(live, monkeypatch):
    monkeypatch.setattr(request_body, "TOTAL_SECONDS", 0.2)
    head = f"POST {APP}/t2a HTTP/1.1\r\nHost: x\r\nAuthorization: Key {live.key}\r\nContent-Length: 9999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.settings.port), timeout=20) as connection:
        connection.sendall(head.encode())
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(b" ")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("host", ["xn--a", "a..b", "a" * 64, "...", "[::1", "h:0", "h:99999", "exa mple", ""])
def test_urls_that_no_client_could_use(client, submit, host):
    url = f"http://{host}/x.zip"
    fault = {"msg": "value must be a valid URL: ", "type": "value_error", "input": url}
    for body, loc, endpoint in (
        ({"training_data_url": url}, ["training_data_url"], "t2a"),
        ({**BODY, "validation": [{"prompt": "", "video_url": url}]}, ["validation", 0, "video_url"], "v2a"),
    ):
        (found,) = faults(submit(body, endpoint))
        assert found["msg"].startswith(fault["msg"])
        assert {**found, "msg": fault["msg"]} == {**fault, "loc": ["body", *loc]}
    (found,) = faults(client.post(f"{APP}/t2a", json=BODY, params={"fal_webhook": url}))
    assert found["loc"] == ["query", "fal_webhook"]


def test_long_data_becomes_a_stored_file(live, client):
    """So that neither the queue nor the worker handles it as JSON."""
    content = bytes(range(256)) * 200
    body = {**BODY, "training_data_url": "data:application/zip;base64," + base64.b64encode(content).decode()}
    answer = client.post(f"{APP}/t2a", json=body)
    assert answer.status_code == 200, answer.text
    url = live.store.body(answer.json()["request_id"])["training_data_url"]
    assert url.startswith(f"{live.address}/files/") and url.endswith("/inline.zip")
    assert live.storage.local(url).read_bytes() == content
    assert live.storage.find(url.split("/")[4]).expires > time.time() + 300 * 86400
    detail = faults(client.post(f"{APP}/t2a", json={**body, "rank": 9}))
    assert [item["loc"] for item in detail] == [["body", "rank"]]
