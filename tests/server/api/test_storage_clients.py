"""Uploads by the published Python client, whose constants lead it here."""

from __future__ import annotations

import asyncio
import hashlib
import random
from urllib.parse import quote

import fal_client
import fal_client.client as fal
import httpx
import pytest

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _connected(live, monkeypatch):
    """Points the client at the server."""
    monkeypatch.setenv("FAL_KEY", live.key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fal, "REST_URL", f"{live.address}/rest")
    monkeypatch.setattr(fal, "CDN_URL", f"{live.address}/cdn")
    # It does not close its connections.
    clients = []
    init = httpx.Client.__init__

    def remembered(self, *args, **named):
        init(self, *args, **named)
        clients.append(self)

    monkeypatch.setattr(httpx.Client, "__init__", remembered)
    yield
    for client in clients:
        client.close()


def stored_bytes(live, url):
    return live.storage.local(url).read_bytes()


def _uploads(client, folder):
    content = random.Random(0).randbytes(3 * MIB + 17)
    path = folder / "clips.zip"
    path.write_bytes(content)
    day = fal_client.client.StorageSettings(expires_in="1d")
    return {
        "bytes": lambda: client.upload(content, "audio/wav"),
        "named bytes": lambda: client.upload(content, "audio/wav", file_name="a b.wav"),
        "file": lambda: client.upload_file(path),
        "lifecycle": lambda: client.upload_file(path, lifecycle=day),
        "fal": lambda: client.upload_file(path, repository="fal"),
        "fal with lifecycle": lambda: client.upload_file(path, repository="fal", lifecycle=day),
    }


@pytest.mark.parametrize("threshold", [100 * MIB, MIB], ids=["single", "multipart"])
def test_python_client(live, client, tmp_path, monkeypatch, threshold):
    monkeypatch.setattr(fal, "MULTIPART_THRESHOLD", threshold)
    monkeypatch.setattr(fal, "MULTIPART_CHUNK_SIZE", 300_000)
    for what, upload in _uploads(fal_client.SyncClient(), tmp_path).items():
        url = upload()
        assert url.startswith(f"{live.address}/files/"), what
        content = (tmp_path / "clips.zip").read_bytes()
        assert stored_bytes(live, url) == client.get(url).content == content, what
        file = live.storage.find(url.split("/")[4])
        assert file.key_id == live.key.partition(":")[0]
        assert file.name == {"bytes": "upload.bin", "named bytes": "a b.wav"}.get(what, "clips.zip")
        assert file.content_type == ("audio/wav" if "bytes" in what else "application/zip")
        lasts = None if file.expires is None else file.expires - file.created
        assert lasts == (pytest.approx(86_400, abs=0.01) if "lifecycle" in what else None)
    assert not list((live.storage.folder / "parts").iterdir())


def test_python_async_client(live, tmp_path, monkeypatch):
    monkeypatch.setattr(fal, "MULTIPART_THRESHOLD", MIB)
    monkeypatch.setattr(fal, "MULTIPART_CHUNK_SIZE", 100_000)
    content = random.Random(0).randbytes(2 * MIB)
    path = tmp_path / "клипы.zip"
    path.write_bytes(content)

    async def upload():
        client = fal_client.AsyncClient()
        async with await client._client:
            return [
                await client.upload(content[:1000], "text/plain"),
                await client.upload(content, "application/zip", file_name="a.zip"),
                await client.upload_file(path, repository="fal"),
            ]

    small, large, named = asyncio.run(upload())
    assert all(url.startswith(f"{live.address}/files/") for url in (small, large, named))
    assert stored_bytes(live, small) == content[:1000]
    assert stored_bytes(live, large) == stored_bytes(live, named) == content
    assert named.endswith("/" + quote("клипы.zip"))


def test_python_client_with_a_wrong_key(monkeypatch):
    monkeypatch.setenv("FAL_KEY", "id:wrong")
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        fal_client.SyncClient().upload(b"x", "text/plain")


def test_101_megabytes_by_the_python_client(live, tmp_path):
    path = tmp_path / "large.zip"
    block = random.Random(0).randbytes(MIB)
    with path.open("wb") as file:
        for n in range(101):
            file.write(n.to_bytes(8, "big") + block[8:])
    url = fal_client.SyncClient().upload_file(path)
    assert url.startswith(live.address)
    with path.open("rb") as sent, live.storage.local(url).open("rb") as kept:
        assert hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(kept, "sha256").digest()
