"""Downloads over real sockets: names and types that are safe in a browser, validators, and ranges by RFC 9110."""

from __future__ import annotations

import hashlib
import json
import random
import re
from urllib.parse import quote, urlsplit

import pytest


@pytest.fixture
def upload(client):
    """Stores a file; headers have '_' in their names. Its URL."""

    def upload(content=b"content", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = client.post("/files/upload", content=content, headers=named)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_url"]

    return upload


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../../etc/passwd", "passwd"),
        ('a"\r\nSet-Cookie: x=1\r\n\r\n<script>.zip', "a_  Set-Cookie_ x=1    _script_.zip"),
        ("скрипка 🎻.wav", "скрипка 🎻.wav"),
        ("x" * 3000 + ".wav", "x" * 156 + ".wav"),
        ("a#b?c%20d&e.zip", "a#b_c%20d&e.zip"),
        ("upload", "upload"),
        ("", "upload.bin"),
    ],
)
def test_names(live, client, name, kept):
    body = json.dumps({"file_name": name, "content_type": "audio/wav"})
    urls = client.post("/rest/storage/upload/initiate", content=body).json()
    client.put(urls["upload_url"], content=b"x")
    answer = client.get(urls["file_url"])
    assert (answer.status_code, answer.content) == (200, b"x")
    assert "set-cookie" not in answer.headers
    assert (
        quote(kept, safe="") in answer.headers["content-disposition"]
        or f'"{kept}"' in answer.headers["content-disposition"]
    )
    file = live.storage.find(urls["file_url"].split("/")[4])
    assert file and file.name == file.path.name == kept
    assert file.path.resolve().is_relative_to(live.storage.folder.resolve())


def test_names_in_headers_are_utf8(live, client):
    for raw, kept in (("клип.wav".encode(), "клип.wav"), ("café.wav".encode("latin-1"), "café.wav")):
        headers = {"X-Fal-File-Name": raw}
        url = client.post("/files/upload", headers=headers, content=b"x").json()["access_url"]
        assert live.storage.find(url.split("/")[4]).name == kept


@pytest.mark.parametrize(
    ("content_type", "served", "disposition"),
    [
        ("audio/wav", "audio/wav", "inline"),
        ("video/mp4", "video/mp4", "inline"),
        ("image/png", "image/png", "inline"),
        ("application/json", "application/json", "inline"),
        ("text/plain;charset=latin-1", "text/plain; charset=utf-8", "inline"),
        ("application/zip", "application/zip", "attachment"),
        ("text/html", "application/octet-stream", "attachment"),
        ("TEXT/HTML", "application/octet-stream", "attachment"),
        ("image/svg+xml", "application/octet-stream", "attachment"),
        ("audio/x+xml", "application/octet-stream", "attachment"),
        ("application/xhtml+xml", "application/octet-stream", "attachment"),
        ("text/xml", "application/octet-stream", "attachment"),
        ("text/javascript", "application/octet-stream", "attachment"),
        ("application/pdf", "application/octet-stream", "attachment"),
        ("application/x-shockwave-flash", "application/octet-stream", "attachment"),
        ("multipart/x-mixed-replace", "application/octet-stream", "attachment"),
    ],
)
def test_nothing_that_runs_in_a_browser(client, upload, content_type, served, disposition):
    url = upload(b"<script>", Content_Type=content_type, X_Fal_File_Name="page.html")
    answer = client.get(url)
    assert answer.headers["content-type"] == served
    assert answer.headers["content-disposition"] == f'{disposition}; filename="page.html"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_download(client, upload):
    content = random.Random(0).randbytes(700_000)
    url = upload(content, Content_Type="audio/wav", X_Fal_File_Name="a.wav")
    for prefix in ("", "/cdn"):
        path = prefix + urlsplit(url).path
        got, head = client.get(path), client.head(path)
        assert (got.status_code, got.content) == (200, content)
        assert (head.status_code, head.content) == (200, b"")
        own = {"date", "x-fal-request-id"}
        assert {name: value for name, value in head.headers.items() if name not in own} == {
            name: value for name, value in got.headers.items() if name not in own
        }
        assert got.headers["content-length"] == "700000"
        assert got.headers["accept-ranges"] == "bytes"
        assert got.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'


def test_download_of_an_empty_file(client, upload):
    got = client.get(upload(b""))
    assert (got.status_code, got.content) == (200, b"")


def test_not_modified(client, upload):
    url = upload()
    etag = client.get(url).headers["etag"]
    for value in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = client.get(url, headers={"If-None-Match": value})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert client.get(url, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [("0-0", 0, 1), ("10-19", 10, 20), ("990-", 990, 1000), ("-5", 995, 1000), ("0-9999", 0, 1000)],
)
def test_ranges(client, upload, value, start, end):
    content = random.Random(0).randbytes(1000)
    url = upload(content, Content_Type="audio/wav")
    answer = client.get(url, headers={"Range": f"bytes={value}"})
    assert (answer.status_code, answer.content) == (206, content[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000"
    etag = answer.headers["etag"]
    assert client.get(url, headers={"Range": f"bytes={value}", "If-Range": etag}).status_code == 206
    assert client.get(url, headers={"Range": f"bytes={value}", "If-Range": '"x"'}).content == content


def test_several_ranges(client, upload):
    url = upload(bytes(range(100)))
    for value in ("bytes=0-3,50-51", "bytes=50-51 ,, 2-3,\t0-2,500-", "Bytes=0-3,50-51,0-1,1-2"):
        answer = client.get(url, headers={"Range": value})
        assert answer.status_code == 206
        assert answer.headers["content-type"].startswith("multipart/byteranges")
        assert len(answer.content) == int(answer.headers["content-length"])
        parts = re.findall(rb"content-range: bytes (\d+)-(\d+)/100\r\n\r\n", answer.content, re.IGNORECASE)
        assert parts == [(b"0", b"3"), (b"50", b"51")], value
        assert bytes(range(4)) + b"\r\n" in answer.content and bytes([50, 51]) + b"\r\n" in answer.content
    one = client.get(url, headers={"Range": "bytes=0-9,10-19"})
    assert (one.headers["content-range"], one.content) == ("bytes 0-19/100", bytes(range(20)))


@pytest.mark.parametrize(
    "value",
    ["lines=1-2", "bytes", "x", "", "bytes=", "bytes=,", "bytes=9-3", "bytes=0-1,9-3", "bytes=a-b", "bytes=-",
     "bytes=1", "bytes=+1-2", "bytes=1--2", "bytes = 0-1", "bytes=0-1;2-3", "bytes=\u0661-\u0662",
     ",".join(["bytes=0-0"] * 30), "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 60, 2))],
)  # fmt: skip
def test_ranges_that_are_ignored(client, upload, value):
    """Other units must be; malformed ranges and long lists may be (RFC 9110, 14.2)."""
    answer = client.get(upload(bytes(1000)), headers={"Range": value.encode()})
    assert (answer.status_code, answer.content) == (200, bytes(1000))
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    "value", ["1000-", "5000-6000", "-0", "1000-,2000-3000", "9" * 5000 + "-", f"1000-{'9' * 5000}"]
)
def test_ranges_outside_the_file(client, upload, value):
    url = upload(bytes(1000))
    etag = client.head(url).headers["etag"]
    for more in ({}, {"If-Range": etag}):
        answer = client.get(url, headers={"Range": f"bytes={value}", **more})
        assert (answer.status_code, answer.headers["content-type"]) == (416, "application/json")
        assert answer.headers["content-range"] == "bytes */1000"
        assert int(answer.headers["content-length"]) == len(answer.content)
    for validator in ('"another version"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        headers = {"Range": f"bytes={value}", "If-Range": validator}
        assert client.get(url, headers=headers).content == bytes(1000)
    assert client.head(url, headers={"Range": f"bytes={value}"}).status_code == 200


def test_ranges_are_for_get_alone(client, upload):
    url = upload(bytes(1000))
    answer = client.head(url, headers={"Range": "bytes=0-9"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, "1000")
    empty = upload(b"")
    for value in ("0-", "0-0", "-1"):
        assert client.get(empty, headers={"Range": f"bytes={value}"}).status_code == 416
    huge = client.get(url, headers={"Range": f"bytes=990-{'9' * 5000}"})
    assert huge.headers["content-range"] == "bytes 990-999/1000"
