"""Requests that enemies send: each has its response, in bounded time, and the server lives on.

`live` runs in this process, where limits can be made short.
"""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress

import httpx
import pytest

from sonolora.server.api import storage_api
from sonolora.server.net import protocol

APP = "/fal-ai/ltx23-trainer-v2"


@pytest.fixture
def raw(live):
    """Sends bytes; returns the head and body of the response. Afterwards the server still answers others."""

    def send(content, seconds=20.0):
        with socket.create_connection(("127.0.0.1", live.settings.port), timeout=seconds) as connection:
            connection.sendall(content)
            with connection.makefile("rb") as answer:
                head = b"".join(iter(answer.readline, b"\r\n") if answer.peek(1) else [])
                length = re.search(rb"content-length: (\d+)", head)
                return head, answer.read(int(length[1])) if length else b""

    yield send
    assert httpx.get(f"{live.address}/health", trust_env=False, verify=False, timeout=20).json() == {"status": "ok"}


def status(head):
    return int(head.split(b" ")[1])


@pytest.mark.parametrize("path", [f"{APP}/t2a", "/rest/storage/upload/initiate", "/files/upload"])
@pytest.mark.parametrize("length", [10**9, 10**18])
def test_a_size_that_is_announced_is_enough(live, raw, path, length):
    head, body = raw(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {live.key}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    assert (status(head), "detail" in json.loads(body)) == (413, True)


@pytest.mark.parametrize("path", [f"{APP}/t2a", "/files/upload"])
def test_a_body_without_an_end(live, raw, monkeypatch, path, wait_until):
    """It is rejected when it is too long, read a little further, so that the client gets the response, and not kept."""
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.5)
    before, began = sorted(live.storage.folder.rglob("*")), time.monotonic()

    def pieces():
        while time.monotonic() - began < 60:
            yield b" " * 65536

    with httpx.Client(trust_env=False, verify=False, timeout=60) as client, suppress(httpx.TransportError):
        answer = client.post(live.address + path, content=pieces(), headers={"Authorization": f"Key {live.key}"})
        assert answer.status_code == 413
    assert time.monotonic() - began < 30
    wait_until(lambda: sorted(live.storage.folder.rglob("*")) == before)
    raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: -1",
        "Content-Length: 1, 2",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 99999999999999999999999999",
    ],
)
def test_two_lengths_are_no_request(live, raw, framing):
    head, _ = raw(
        f"POST {APP}/t2a HTTP/1.1\r\nHost: x\r\nAuthorization: Key {live.key}\r\n{framing}\r\n\r\nhello".encode()
    )
    assert status(head) == 400


@pytest.mark.parametrize("depth", [63, 64, 500, 900, 5_000, 45_000])
@pytest.mark.parametrize("path", [f"{APP}/t2a", "/rest/storage/upload/initiate"])
def test_deep_json(raw, client, path, depth):
    """What is accepted is shallow enough for all code that handles it later, on every Python."""
    nested = "[" * depth + "]" * depth
    text = f'{{"training_data_url": "https://a.example/a.zip", "file_name": "a", "more": {nested}}}'
    answer = client.post(path, content=text)
    assert answer.status_code == (200 if depth == 63 else 422), answer.text
    if depth > 63:
        assert answer.json()["detail"][0]["msg"] == "Invalid JSON: nested too deeply"
    raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    "value",
    ["9" * 10_000, "1e999", "NaN", '"\\ud800"', '{"a": 1, "a": 2}', '"\\u0000"', "-0", '"' + "x" * 90_000 + '"'],
)
@pytest.mark.parametrize("field", ["number_of_steps", "trigger_phrase", "training_data_url", "not_known"])
def test_odd_values(client, field, value):
    answer = client.post(
        f"{APP}/t2a", content=f'{{"training_data_url": "https://a.example/a.zip", "{field}": {value}}}'
    )
    assert answer.status_code in (200, 422)
    assert len(answer.content) < 10_000


# Slow clients


def test_slow_clients_hold_up_nobody_and_are_disconnected(live, raw, monkeypatch, wait_until):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 2.0)
    monkeypatch.setattr(storage_api, "IDLE_SECONDS", 2.0)
    key = f"Authorization: Key {live.key}\r\n"
    beginnings = (
        b"",
        b"GET / HTTP/1.1\r\nX: ",
        f"POST /files/upload HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 1000\r\n\r\nx".encode(),
    )
    began = time.monotonic()
    slow = [socket.create_connection(("127.0.0.1", live.settings.port), timeout=20) for _ in range(150)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(beginnings[number % 3])
        asked = time.monotonic()
        head, _ = raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status(head), time.monotonic() - asked < 2) == (200, True)
        for number, connection in enumerate(slow):
            reply = connection.recv(65536)
            assert reply.startswith(b"HTTP/1.1 408") if number % 3 == 2 else reply == b""
        assert time.monotonic() - began < 20
    finally:
        for connection in slow:
            connection.close()
    wait_until(lambda: not list((live.storage.folder / "incoming").iterdir()))


# Names and paths


@pytest.mark.parametrize(
    "name",
    ['a"\r\nSet-Cookie: x=1\r\n\r\n<script>.zip', "a\r\n\tb.zip", "a\x00b.zip", "a\x85\u2028b.zip", 'a";evil="1.zip',
     "a\u202ebiz.zip", "\U0001f600.zip", "%0d%0aSet-Cookie:%20x=1.zip", "../../../../etc/passwd", "..", "."],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["audio/wav", "audio/wav\r\nSet-Cookie: x=1", "text/html", 'a/b";evil="1'])
def test_names_and_types_add_no_header(live, client, raw, name, content_type):
    announced = {"file_name": name, "content_type": content_type}
    answer = client.post("/rest/storage/upload/initiate", json=announced)
    urls = answer.json()
    assert "\r" not in urls["file_url"] and "\n" not in urls["file_url"]
    assert client.put(urls["upload_url"], content=b"<script>").status_code == 200
    path = urls["file_url"].removeprefix(live.address)
    head, body = raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode("ascii"))
    assert (status(head), body) == (200, b"<script>")
    lines = head.decode("ascii").split("\r\n")[1:-1]
    assert [line.partition(":")[0] for line in lines if line.startswith(("set-cookie", "content-disposition"))] == [
        "content-disposition"
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+: [ -~]*", line) for line in lines)
    disposition = next(line for line in lines if line.startswith("content-disposition"))
    assert re.fullmatch(
        r'content-disposition: (inline|attachment); filename(="[^"\\]*"|\*=utf-8\'\'[^";,\s]*)', disposition
    )
    file = live.storage.find(path.split("/")[2])
    assert file.path.parent.parent == live.storage.folder / "content"


@pytest.fixture
def stored(live, client):
    """The path of a stored file; afterwards it is unchanged, and nothing outside the storage has appeared or gone."""

    def outside():
        return {
            path: path.stat().st_mtime_ns for path in live.settings.folder.glob("*") if "server.db" not in path.name
        }

    before = outside()
    url = client.post("/files/upload", content=b"ours", headers={"X-Fal-File-Name": "a.wav"}).json()["access_url"]
    yield url.removeprefix(live.address)
    assert set(outside()) == set(before)
    assert client.get(url).content == b"ours"


TRICKS = [
    "/files/../server.db", "/files/..%2f..%2fserver.db/x", "/files/%2e%2e/%2e%2e/server.db",
    "/files/..%252fserver.db/x", "/files/%2e%2e%5c%2e%2e%5cserver.db/x", "/files//etc/passwd",
    "/files/%2fetc%2fpasswd/x", "/files/./x", "/files/%00/x", "/files/secret/x", "/files/content/x", "/files/*/x",
    "/files/{id}%00/a.wav", "/files/{id}/", "/files/{id}", "/files/{id}/../../../server.db",
    "/cdn/files/../../server.db", "/cdn/files/{id}%2f..%2f../x", "/files/" + "x" * 5000 + "/x",
    "//files/../server.db", "/files/%ff%fe/x", "/rest/../files/../server.db",
]  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_paths_lead_nowhere_else(live, raw, stored, trick, method):
    path = trick.format(id=stored.split("/")[2])
    key = f"Authorization: Key {live.key}\r\n"
    head, body = raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 4\r\n\r\nevil".encode())
    assert status(head) in (400, 404, 405), head
    assert b"SQLite" not in body and b"root:" not in body


@pytest.mark.parametrize("number", ["0", "-1", "10001", "1e3", "..%2f1", "%2e%2e", "1%00", "\u0661"])
def test_parts_have_numbers(live, client, number):
    began = client.post("/files/upload/multipart", headers={"X-Fal-File-Name": "a.wav"}).json()
    answer = client.put(f"{began['access_url']}/multipart/{began['uploadId']}/{number}", content=b"evil")
    assert answer.status_code in (400, 404)
    other = client.put(f"{began['access_url']}/multipart/..%2f..%2fx/1", content=b"evil")
    assert other.status_code == 404
    assert not list((live.storage.folder / "parts").iterdir())


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("https://queue.fal.run.evil.example/x", 412),
        ("https://queue.fal.run@evil.example/x", 412),
        ("https://evil.example/?https://queue.fal.run", 412),
        ("http://[::1", 412),
        ("", 412),
        ("https://v3.fal.media/files/../../server.db", 404),
        ("https://rest.fal.ai/%2e%2e/%2e%2e/files/..%2fserver.db", 404),
    ],
)
def test_the_proxy_leads_nowhere_else(client, target, code):
    answer = client.get("/proxy", headers={"x-fal-target-url": target})
    assert answer.status_code == code
    assert b"SQLite" not in answer.content
