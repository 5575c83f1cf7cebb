from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sonolora.server.api.app import Services, build_app
from sonolora.server.jobs.records import Role
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.logs import without_secrets
from sonolora.server.settings import JSON


@pytest.fixture
def call(live) -> Any:
    """Calls an app that has an access log, in this process."""
    settings = replace(live.settings, log_format=JSON)
    services = Services(
        settings, live.store, live.keys, live.storage, live.notifier, Retrying(live.health), lambda: None, {}
    )
    transport = httpx.ASGITransport(build_app(services))

    def call(method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    return call


def test_a_line_for_every_request_says_whose_it_is_and_holds_no_secret(live, call, log_lines):
    id, secret = live.keys.add("laptop", owner="Jo", role=Role.MEMBER)
    auth = {"authorization": f"Key {secret}"}
    body = {"training_data_url": "https://e.x/a.zip?token=SECRET"}
    queued = call("POST", "/fal-ai/ltx23-trainer-v2/t2a", json=body, headers=auth).json()["request_id"]
    call("GET", f"/fal-ai/ltx23-trainer-v2/requests/{queued}/status", headers=auth)
    begun = call("POST", "/rest/storage/upload/initiate", json={"file_name": "a.bin"}, headers=auth).json()
    call("PUT", begun["upload_url"].removeprefix("http://testserver"), content=b"x")
    other = call("GET", begun["file_url"].removeprefix("http://testserver"))
    call("GET", "/nowhere/at/all", headers={"authorization": "Key wrong:SECRET"})
    submitted, *access = log_lines()
    assert (submitted["run"], submitted["key"], submitted["owner"]) == (queued, id, "Jo")
    assert submitted["message"] == f"request {queued}: submitted, t2a"
    assert [(line["method"], line["route"], line["status"]) for line in access] == [
        ("POST", "/queue/fal-ai/ltx23-trainer-v2/{endpoint:path}", 200),
        ("GET", "/queue/{app:path}/requests/{id}/status", 202),
        ("POST", "/rest/storage/upload/initiate", 200),
        ("PUT", "/files/{id}/{name}", 200),
        ("GET", "/files/{id}/{name}", 200),
        ("GET", None, 404),
    ]
    assert [line.get("run") for line in access] == [queued, queued, None, None, None, None]
    assert [line.get("owner") for line in access] == ["Jo", "Jo", "Jo", None, None, None]
    assert access[4]["request_id"] == other.headers["x-fal-request-id"]
    for line in (submitted, *access):
        assert {"time", "level", "logger", "message", "request_id"} <= set(line)
        assert line["level"] == "INFO" and line["time"].endswith("+00:00")
    assert all(0 <= line["duration"] < 60 for line in access)
    text = json.dumps(log_lines())
    file_id = begun["file_url"].split("/")[-2]
    for hidden in (secret.partition(":")[2], "SECRET", file_id, "signature", "a.bin"):
        assert hidden not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {'0' * 16}:{'a' * 64}.", f"key {'0' * 16}:<hidden>."),
        ("GET /x?expires=3&signature=abc&b=1", "GET /x?expires=3&signature=<hidden>&b=1"),
        (
            "https://s3/x?X-Amz-Signature=ab%2F&X-Amz-Date=3",
            "https://s3/x?X-Amz-Signature=<hidden>&X-Amz-Date=<hidden>",
        ),
        ("postgresql+psycopg://jo:pass@db/x failed", "postgresql+psycopg://jo:<hidden>@db/x failed"),
        (f"http://h:80/files/{'aB_-' * 8}/a.wav", "http://h:80/files/<hidden>/a.wav"),
        ("request 0f: step 3:4", "request 0f: step 3:4"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_an_exception_is_part_of_its_line(log_lines):
    try:
        raise ValueError(f"{'0' * 16}:{'a' * 64}")
    except ValueError:
        logging.getLogger("sonolora.x").exception("it failed", extra={"fields": {"duration": 1.5}})
    (line,) = log_lines()
    assert line["exception"].startswith("Traceback") and line["exception"].endswith(":<hidden>")
    assert (line["message"], line["duration"], line["level"]) == ("it failed", 1.5, "ERROR")
