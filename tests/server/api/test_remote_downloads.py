"""Downloads of what is in an object store and not on the server's disk, through the server and past it."""

from __future__ import annotations

import shutil

import httpx
import pytest
from s3_server import BUCKET, running_s3

from sonolora.core.object_store import ObjectStore
from sonolora.server.files.remote import RemoteFiles

pytestmark = pytest.mark.xdist_group("s3")
CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def s3():
    with running_s3() as client:
        yield client


@pytest.fixture(params=[False, True], ids=["streamed", "redirected"])
def stored(request, s3, live, client, monkeypatch):  # noqa: ARG001
    """The path of a WAV file that only the object store has."""
    remote = RemoteFiles(ObjectStore(f"s3://{BUCKET}/files"), redirect=request.param)
    monkeypatch.setattr(live.storage, "_remote", remote)
    head = {"content-type": "audio/wav", "x-fal-file-name": "tüne.wav".encode()}
    url = client.post("/cdn/files/upload", content=CONTENT, headers=head).json()["access_url"]
    shutil.rmtree(live.storage.local(url).parent)
    return httpx.URL(url).path


def test_a_download_has_the_content_and_its_headers(stored, anonymous):
    answer = anonymous.get(stored, follow_redirects=True)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''t%C3%BCne.wav"
    first = anonymous.get(stored)
    assert first.status_code == (307 if answer.history else 200)
    assert first.headers.get("x-content-type-options", "nosniff") == "nosniff"


def test_a_range(stored, anonymous):
    answer = anonymous.get(stored, headers={"range": "bytes=300-399"}, follow_redirects=True)
    assert (answer.status_code, answer.content) == (206, CONTENT[300:400])
    assert answer.headers["content-range"] == f"bytes 300-399/{len(CONTENT)}"
    assert anonymous.get(stored, headers={"range": "bytes=99999-"}).status_code == 416


def test_head_and_what_the_client_has(stored, anonymous):
    head = anonymous.head(stored)
    if head.status_code == 200:
        assert (head.headers["content-length"], head.content) == (str(len(CONTENT)), b"")
        assert anonymous.get(stored, headers={"if-none-match": head.headers["etag"]}).status_code == 304
