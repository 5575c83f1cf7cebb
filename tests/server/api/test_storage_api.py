"""The calls of uploads one by one: as the JavaScript client makes them, and as no client should."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx
import pytest
import uvicorn
from sqlalchemy import insert
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from sonolora.core.errors import InputError
from sonolora.server import clock
from sonolora.server.api import storage_api
from sonolora.server.api.authorise import access_with
from sonolora.server.api.request_body import BodyMemory
from sonolora.server.api.responses import RejectedError, error_response, input_error_response
from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.database.tables import keys
from sonolora.server.files.incoming import UploadError
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.keys import Access, Keys
from sonolora.server.jobs.records import Key, Role

MIB = 1 << 20
KEYS = {
    "Key id:secret": Key("k1", "one", 0.0, "one", Role.MEMBER),
    "Key other": Key("k2", "two", 0.0, "two", Role.MEMBER),
}
AUTH = {"Authorization": "Key id:secret"}
OTHER = {"Authorization": "Key other"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = SqliteDatabase(tmp_path / "server.db")
    with database.transaction() as transaction:
        for key in KEYS.values():
            transaction.execute(insert(keys), {**vars(key), "sha256": ""})
    yield database
    database.close()


@pytest.fixture
def storage(tmp_path: Path, database: Database) -> Storage:
    return Storage(tmp_path / "files", database, max_bytes=200 * MIB)


def authorise(keys: Keys, request: Request) -> Access:
    return access_with(keys, KEYS.get(request.headers.get("authorization", "")), "no valid key")


def base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def _rejected(_: Request, error: Exception) -> Response:
    assert isinstance(error, RejectedError)
    return error.response


async def _upload_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, UploadError)
    return error_response(error.status, str(error))


async def _faulty(_: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    return input_error_response(error)


async def _gone(_: Request, __: Exception) -> Response:
    return error_response(499, "gone")


def app_of(storage: Storage) -> ASGIApp:
    keys = Keys(storage._records._database)
    routes = storage_api.routes(storage, keys, BodyMemory(), partial(authorise, keys), base_url)
    return Starlette(
        routes=routes,
        exception_handlers={
            RejectedError: _rejected,
            InputError: _faulty,
            UploadError: _upload_error,
            ClientDisconnect: _gone,
        },
    )


class Client:
    """httpx on the app, without a network and with errors as they come."""

    def __init__(self, storage: Storage) -> None:
        self.app = app_of(storage)

    def __call__(self, method: str, url: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, url, **more)

        return asyncio.run(send())

    def upload(self, content: bytes = b"content", **headers: str) -> str:
        """The address of a new file; the names of the headers with '_'."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self("POST", "/cdn/files/upload", content=content, headers={**AUTH, **named})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_url"])


@pytest.fixture
def client(storage: Storage) -> Client:
    return Client(storage)


@pytest.fixture
def served(storage: Storage) -> Iterator[str]:
    """The address of the app on a real server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app_of(storage), ws="none", lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def on_disk(storage: Storage) -> set[str]:
    return {str(path.relative_to(storage.folder)) for path in storage.folder.glob("*/**/*")}


def stored_bytes(storage: Storage, url: str) -> bytes:
    path = storage.local(url)
    assert path
    return path.read_bytes()


def is_error(answer: httpx.Response, status: int) -> bool:
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"]
    return answer.status_code == status


# The calls of the JavaScript client, one by one. Source: its storage.ts.


def js_headers(**more: str) -> dict[str, str]:
    return {**AUTH, "Accept": "application/json", "Content-Type": "application/json", **more}


def initiate(client: Client, kind: str, **headers: str) -> dict[str, str]:
    body = {"content_type": "text/plain", "file_name": "a.txt"}
    url = f"/rest/storage/upload/{kind}?storage_type=fal-cdn-v3"
    answer = client("POST", url, json=body, headers=js_headers(**headers))
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"upload_url", "file_url"}
    return dict(answer.json())


def test_javascript_client_small(client: Client, storage: Storage) -> None:
    urls = initiate(client, "initiate", **{"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds":3600}'})
    assert is_error(client("GET", urls["file_url"]), 404)
    answer = client("PUT", urls["upload_url"], content=b"hello", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    got = client("GET", urls["file_url"])
    assert (got.status_code, got.content) == (200, b"hello")
    assert got.headers["content-type"].startswith("text/plain")
    file = storage.find(urls["file_url"].split("/")[4])
    assert file and file.expires == pytest.approx(file.created + 3600, abs=0.01)


def test_javascript_client_multipart(client: Client, storage: Storage) -> None:
    urls = initiate(client, "initiate-multipart")
    address = urlsplit(urls["upload_url"])
    listed = []
    for number in (1, 2, 3):
        url = f"{address.scheme}://{address.netloc}{address.path}/{number}?{address.query}"
        answer = client("PUT", url, content=bytes([number]) * 1000)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        part = answer.json()
        assert answer.headers["etag"] == f'"{part["etag"]}"'
        listed.append({"partNumber": part["partNumber"], "etag": part["etag"]})
    url = f"{address.scheme}://{address.netloc}{address.path}/complete?{address.query}"
    for _ in range(2):
        answer = client("POST", url, json={"parts": listed})
        assert answer.status_code == 200
        assert answer.json()["access_url"] == urls["file_url"]
    assert stored_bytes(storage, urls["file_url"]) == b"\1" * 1000 + b"\2" * 1000 + b"\3" * 1000


# Who may do what.


def token(client: Client) -> dict[str, str]:
    answer = client("POST", "/rest/storage/auth/token?storage_type=fal-cdn-v3", json={}, headers=AUTH)
    assert answer.status_code == 200
    return dict(answer.json())


def test_token(client: Client) -> None:
    given = token(client)
    assert set(given) == {"token", "token_type", "base_url", "expires_at"}
    expires = datetime.fromisoformat(given["expires_at"])
    assert given["expires_at"].endswith("+00:00")
    assert timedelta(minutes=50) < expires - datetime.now(UTC) < timedelta(hours=2)
    assert given["base_url"] == "http://here"
    assert "secret" not in given["token"]


def bearer(given: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {given}"}


def test_tokens_of_others(client: Client, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    good = token(client)["token"]
    assert client("POST", "/files/upload", headers=bearer(good), content=b"x").status_code == 200
    before = on_disk(storage)
    key_id, expires, signature = good.split(".")
    bad = [
        "",
        "x",
        f"k2.{expires}.{signature}",
        f"{key_id}.{int(expires) + 1}.{signature}",
        f"{key_id}.{expires}.{'0' * 64}",
        f"{key_id}.{expires}.",
        f"{key_id}.{expires}.\u00e9".encode("latin-1").decode("latin-1"),
        f"{key_id}.x.{signature}",
    ]
    for wrong in bad:
        headers = {"Authorization": f"Bearer {wrong}".encode("latin-1")}
        assert is_error(client("POST", "/files/upload", headers=headers, content=b"x"), 401), wrong
        assert is_error(client("POST", "/files/upload/multipart", headers=headers), 401), wrong
    later = time.time() + storage_api.TOKEN_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert is_error(client("POST", "/files/upload", headers=bearer(good), content=b"x"), 401)
    assert on_disk(storage) == before


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Key wrong"}, {"Authorization": "nonsense"}])
def test_nothing_without_a_key(client: Client, storage: Storage, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/rest/storage/auth/token"),
        ("POST", "/rest/storage/upload/initiate"),
        ("POST", "/rest/storage/upload/initiate-multipart"),
        ("POST", "/files/upload"),
        ("POST", "/cdn/files/upload"),
        ("POST", "/cdn/files/upload/multipart"),
        ("PUT", "/files/x/y"),
        ("PUT", "/cdn/files/x/y/multipart/x/1"),
        ("POST", "/files/x/y/multipart/x/complete"),
    ):
        assert is_error(client(method, path, headers=headers, content=b"{}"), 401), path
    assert on_disk(storage) == set()


def test_upload_addresses_are_signed(client: Client, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    url = initiate(client, "initiate")["upload_url"]
    other = initiate(client, "initiate")["upload_url"]
    path, query = url.split("?")
    expires = re.findall(r"expires=(\d+)", query)[0]
    for wrong in (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        f"{path}?{other.split('?')[1]}",
        url.replace(f"expires={expires}", f"expires={int(expires) + 1}"),
        url.replace(f"expires={expires}", "expires=never"),
        url.replace(f"expires={expires}&", ""),
        f"{path}?expires={expires}&signature=",
        f"{path}?expires={expires}&signature=%C3%A9%00",
    ):
        assert is_error(client("PUT", wrong, content=b"x"), 403), wrong
    assert is_error(client("PUT", path, content=b"x"), 401)
    assert is_error(client("PUT", path, content=b"x", headers=OTHER), 404)
    assert on_disk(storage) == set()
    assert client("PUT", url, content=b"mine").status_code == 200
    # Clients that use one session for everything send their key along.
    assert client("PUT", url, content=b"again", headers={"Authorization": "Key wrong"}).status_code == 200
    later = time.time() + storage_api.UPLOAD_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert is_error(client("PUT", url, content=b"late"), 403)
    assert stored_bytes(storage, path) == b"again"


def test_uploads_of_others(client: Client, storage: Storage) -> None:
    begun = client("POST", "/cdn/files/upload/multipart", headers=AUTH).json()
    parts = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    assert is_error(client("PUT", f"{parts}/1", headers=OTHER, content=b"x"), 404)
    assert is_error(client("POST", f"{parts}/complete", headers=OTHER, json={"parts": []}), 404)
    assert is_error(client("PUT", f"{begun['access_url']}/multipart/other/1", headers=AUTH, content=b"x"), 404)
    assert is_error(client("PUT", "/files/unknown/a/multipart/unknown/1", headers=AUTH, content=b"x"), 404)
    assert client("PUT", f"{parts}/1", headers=AUTH, content=b"x").status_code == 200
    # Nobody writes over what a run has put out.
    output = storage.folder / "out"
    output.write_bytes(b"weights")
    file = storage.adopt(output, "lora.safetensors", "", request_id="r", expires=None)
    assert is_error(client("PUT", file.address, headers=AUTH, content=b"x"), 404)


def test_secret_is_kept_and_private(storage: Storage, database: Database) -> None:
    client = Client(storage)
    url = initiate(client, "initiate")["upload_url"]
    secret = storage.folder / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_bytes()) == 32
    restarted = Client(Storage(storage.folder, database, 1000))
    assert restarted("PUT", url, content=b"x").status_code == 200
    assert storage.clean(time.time()) == 0
    assert secret.exists()


# What is refused.


def test_too_large(storage: Storage, database: Database) -> None:
    storage = Storage(storage.folder, database, max_bytes=1000)
    client = Client(storage)
    url = initiate(client, "initiate")["upload_url"]
    begun = client("POST", "/cdn/files/upload/multipart", headers=AUTH).json()
    part = f"{begun['access_url']}/multipart/{begun['uploadId']}/1"

    def chunks() -> Any:
        async def pieces() -> Any:
            for _ in range(101):
                yield bytes(10)

        return pieces()

    for method, path in (("POST", "/cdn/files/upload"), ("PUT", url), ("PUT", part)):
        for content in (bytes(1001), chunks()):
            answer = client(method, path, headers=AUTH, content=content)
            assert is_error(answer, 413)
            assert "1,000 bytes" in answer.json()["detail"]
    assert on_disk(storage) == set()
    assert client("PUT", url, content=bytes(1000)).status_code == 200


def test_full_disk(storage: Storage, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = client("POST", "/cdn/files/upload", headers=AUTH, content=b"x")
    assert is_error(answer, 507)
    assert "No space left" in answer.json()["detail"]
    assert str(storage.folder) not in answer.text
    assert on_disk(storage) == set()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"parts":[]}', 422),
        (b'{"parts":[{"partNumber":1}]}', 422),
        (b'{"parts":[{"partNumber":"x","etag":"y"}]}', 422),
        (b'{"parts":{"1":"y"}}', 422),
        (b'{"parts":[{"partNumber":2,"etag":"y"}]}', 400),
        (b'{"parts":[{"partNumber":1,"etag":"../1"}]}', 400),
        (b'{"parts":[{"partNumber":-1,"etag":""}]}', 400),
        pytest.param(b" " * (3 * MIB), 413, id="too large"),
        pytest.param(b'{"parts":[' + b"{}," * 20_000 + b"{}]}", 422, id="too many"),
    ],
)
def test_bad_lists_of_parts(client: Client, storage: Storage, body: bytes, status: int) -> None:
    begun = client("POST", "/cdn/files/upload/multipart", headers=AUTH).json()
    parts = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    etag = client("PUT", f"{parts}/1", headers=AUTH, content=b"x").headers["etag"]
    assert is_error(client("POST", f"{parts}/complete", headers=AUTH, content=body), status)
    listed = {"parts": [{"partNumber": 1, "etag": "gone"}, {"partNumber": 1, "etag": f"W/{etag}"}]}
    assert client("POST", f"{parts}/complete", headers=AUTH, json=listed).status_code == 200
    assert stored_bytes(storage, begun["access_url"]) == b"x"
    assert is_error(client("PUT", f"{parts}/1", headers=AUTH, content=b"late"), 400)


@pytest.mark.parametrize("number", ["0", "-1", "10001", "1.5", "x", "٣", "01", "1" * 5000])
def test_bad_part_numbers(client: Client, number: str) -> None:
    begun = client("POST", "/cdn/files/upload/multipart", headers=AUTH).json()
    url = f"{begun['access_url']}/multipart/{begun['uploadId']}/{quote(number)}"
    assert is_error(client("PUT", url, headers=AUTH, content=b"x"), 400)


@pytest.mark.parametrize(
    "body", [b"", b"null", b'{"file_name":3}', b'{"content_type":[]}', b"\xff", pytest.param(b"[" * 100_000, id="deep")]
)
def test_bad_announcements(client: Client, body: bytes) -> None:
    for kind in ("initiate", "initiate-multipart"):
        assert is_error(client("POST", f"/rest/storage/upload/{kind}", headers=AUTH, content=body), 422)


@pytest.mark.parametrize("said", ["nonsense", "[]", '{"expiration_duration_seconds":"1d"}', "{", "NaN", "[" * 9000])
def test_bad_lifecycles(client: Client, storage: Storage, said: str) -> None:
    for name in ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference"):
        headers = {**AUTH, name: said}
        assert is_error(client("POST", "/files/upload", headers=headers, content=b"x"), 400)
    assert on_disk(storage) == set()


# Files that are gone.


def test_no_such_file(client: Client, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    url = client.upload(X_Fal_Object_Lifecycle='{"expiration_duration_seconds":60}')
    assert client("GET", url).status_code == 200
    begun = client("POST", "/cdn/files/upload/multipart", headers=AUTH).json()["access_url"]
    for path in ("/files/x/y", "/cdn/files/x/y", "/files/..%2f..%2fserver.db/x", "/files/secret/secret", begun):
        for method in ("GET", "HEAD"):
            answer = client(method, path)
            assert answer.status_code == 404, path
            assert answer.headers["content-type"] == "application/json" or answer.status_code == 404
    later = time.time() + 61
    monkeypatch.setattr(clock, "now", lambda: later)
    assert is_error(client("GET", url), 404)
    assert storage.clean(later) == 1
    assert is_error(client("GET", url), 404)


# Clients that go away, or do not go on.


def _raw(served: str, head: bytes, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(served.rsplit(":", 1)[1])), timeout=30)
    connection.sendall(head + b"Host: x\r\nAuthorization: Key id:secret\r\nContent-Length: 1000000\r\n\r\n" + body)
    return connection


def test_client_that_disconnects_leaves_nothing(
    wait_until: Callable[..., None], storage: Storage, served: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = httpx.post(f"{served}/files/upload/multipart", headers=AUTH).json()
    part = f"PUT {urlsplit(given['access_url']).path}/multipart/{given['uploadId']}/1 HTTP/1.1\r\n".encode()
    for head in (b"POST /files/upload HTTP/1.1\r\n", part):
        connection = _raw(served, head, bytes(300_000))
        wait_until(lambda: any(path.startswith("incoming") for path in on_disk(storage)))
        connection.close()
        wait_until(lambda: not on_disk(storage))
    assert storage.clean(time.time()) == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_client_that_stalls(
    wait_until: Callable[..., None], storage: Storage, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_api, "IDLE_SECONDS", 0.2)
    with _raw(served, b"POST /files/upload HTTP/1.1\r\n", b"half") as connection:
        reply = connection.recv(1000)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b'"detail"' in reply
    wait_until(lambda: not on_disk(storage))


# Memory.


def _peak(app: ASGIApp, method: str, path: str, headers: Mapping[str, str], mebibytes: int) -> int:
    """Send that much in pieces of 64 KiB, as a server hands them over, and give the most bytes held at any time."""
    piece = bytes(1 << 16)
    left = mebibytes * 16

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": piece if left >= 0 else b"", "more_body": left >= 0}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in {**AUTH, **headers}.items()],
        "scheme": "http",
        "server": ("here", 80),
    }
    tracemalloc.start()
    try:
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_upload(storage: Storage, client: Client) -> None:
    assert _peak(client.app, "POST", "/files/upload", {}, 101) < 4 * MIB
    begun = client("POST", "/cdn/files/upload/multipart", headers=AUTH).json()
    parts = f"{urlsplit(begun['access_url']).path}/multipart/{begun['uploadId']}"
    assert _peak(client.app, "PUT", f"{parts}/1", {}, 40) < 4 * MIB
    etag = hashlib.sha256(bytes(40 * MIB)).hexdigest()
    tracemalloc.start()
    answer = client("POST", f"{parts}/complete", headers=AUTH, json={"parts": [{"partNumber": 1, "etag": etag}]})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 200
    assert peak < 4 * MIB
    assert sorted(path.stat().st_size for path in storage.folder.glob("content/*/*")) == [40 * MIB, 101 * MIB]
