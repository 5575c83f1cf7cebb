"""fetch against a real server on this machine: answers, redirects, limits, resuming, and what is said."""

from __future__ import annotations

import base64
import gzip
import logging
import random
import threading
import zipfile
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from local_site import Request, Site, serving

from sonolora.core.errors import InputError
from sonolora.data.archive import unpack
from sonolora.data.fetch import FetchLimits, fetch

QUICK = FetchLimits(backoff_seconds=0.01, connect_seconds=2, read_seconds=2)
CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as site:
        yield site


def failing(
    source: str, into: Path, *words: str, kind: str = "file_download_error", limits: FetchLimits = QUICK
) -> InputError:
    with pytest.raises(InputError) as caught:
        fetch(source, into, field="audio_url", limits=limits)
    (item,) = caught.value.items
    assert item.loc == ("body", "audio_url")
    assert item.type == kind
    for word in words:
        assert word in item.msg
    assert "SECRET" not in item.msg
    return caught.value


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_local_paths_come_back_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(b"x")
    assert fetch(str(file), tmp_path / "into") == file
    assert fetch(str(tmp_path), tmp_path / "into") == tmp_path
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("source", ["/no/such/clips.zip", "clips.zip", "", "  ", "x" * 5000, "a\0b"])
def test_missing_path(tmp_path: Path, source: str) -> None:
    error = failing(source, tmp_path, "no file or folder", source.strip()[:200], "Check", kind="value_error")
    assert len(str(error)) < 400


@pytest.mark.parametrize("source", ["s3://bucket/clips.zip", "ftp://host/a.zip", "file:///etc/passwd"])
def test_other_schemes(tmp_path: Path, source: str) -> None:
    failing(source, tmp_path, source.split("/")[0], "http(s)", kind="value_error")


@pytest.mark.parametrize("source", ["http://", "https:///a.zip", "http://u:SECRET@[::1/a", "http://host:99999/a"])
def test_invalid_urls(tmp_path: Path, source: str) -> None:
    failing(source, tmp_path, "not a valid URL", kind="value_error")


def test_data_uri(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"\xfb\xffsound").decode()
    path = fetch(f"data:audio/wav;base64,{encoded}", tmp_path / "new")
    assert path.parent == tmp_path / "new"
    assert path.read_bytes() == b"\xfb\xffsound"
    sloppy = encoded.replace("=", "").replace("+", "%2B")
    assert fetch(f"DATA:application/zip;name=a.zip;base64,{sloppy[:5]}\n{sloppy[5:]}", tmp_path / "new") == path
    assert left_in(tmp_path / "new") == [path.name]


def test_bad_data_uris(tmp_path: Path) -> None:
    failing("data:audio/wav,plain", tmp_path, "not base64", "Write it as", kind="value_error")
    failing("data:audio/wav;base64,!!!", tmp_path, "damaged base64", "again", kind="value_error")
    failing("data:audio/wav;base64,AAAAA", tmp_path, "damaged base64", kind="value_error")
    tight = FetchLimits(max_bytes=100)
    failing(f"data:;base64,{'A' * 200}", tmp_path, "100 bytes", kind="file_too_large", limits=tight)
    assert left_in(tmp_path) == []


def test_download(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    calls: list[tuple[int, int | None]] = []
    site.answers(lambda request: request.reply(200, CONTENT, ETag='"1"'))
    path = fetch(site.url, tmp_path / "new", limits=QUICK, progress=lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT
    assert path.parent == tmp_path / "new"
    assert path.name.startswith("clips-")
    assert path.suffix == ".zip"
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert left_in(path.parent) == [path.name]
    assert "SECRET" not in caplog.text + path.name
    (seen,) = site.seen
    assert seen[0] == "/data/clips.zip?sig=SECRET"
    assert "Range" not in seen[1]
    assert seen[1]["Accept-Encoding"] == "identity"

    assert fetch(site.url, tmp_path / "new") == path  # not asked for again
    assert len(site.seen) == 1
    assert fetch(site.url + "2", tmp_path / "new") != path


@pytest.mark.parametrize(
    "url_path",
    [
        "/",
        "/..",
        "/%2e%2e%2fx",
        "/.hidden",
        "/a%00b%2fc",
        "/" + "n" * 999 + ".zip",
        "/" + "%F0%9F%8E%B5" * 99,
    ],
)
def test_names_of_downloads_are_harmless(tmp_path: Path, site: Site, url_path: str) -> None:
    site.answers(lambda request: request.reply(200, b"x"))
    path = fetch(f"http://{site.host}{url_path}", tmp_path, limits=QUICK)
    assert path.parent == tmp_path
    assert left_in(tmp_path) == [path.name]
    assert not path.name.startswith(".")


def test_compressed_transfer_is_unpacked(tmp_path: Path, site: Site) -> None:
    body = gzip.compress(CONTENT)
    site.answers(lambda request: request.reply(200, body, Content_Encoding="gzip", ETag='"1"'))
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    site.answers(lambda request: request.reply(200, b"no gzip", Content_Encoding="gzip"))
    failing(site.url + "&2", tmp_path, "could not be downloaded (tries: 1)")


@pytest.mark.parametrize(("status", "advice"), [(404, "Check the address"), (403, "expired"), (418, "address of a")])
def test_refusing_statuses(tmp_path: Path, site: Site, status: int, advice: str) -> None:
    site.answers(lambda request: request.reply(status, b"no"))
    failing(site.url, tmp_path, f"http://{site.host}/data/clips.zip answered with status {status} ", advice)
    assert len(site.seen) == 1
    assert left_in(tmp_path) == []


def test_password_is_not_shown(tmp_path: Path, site: Site) -> None:
    site.answers(lambda request: request.reply(404))
    failing(f"http://me:SECRET@{site.host}/a.zip#SECRET", tmp_path, f"http://{site.host}/a.zip ")
    assert site.seen[0][1]["Authorization"] == "Basic " + base64.b64encode(b"me:SECRET").decode()


def test_busy_server_is_asked_again(tmp_path: Path, site: Site) -> None:
    def answer(request: Request) -> None:
        request.reply(503) if len(site.seen) < 3 else request.reply(200, CONTENT)

    site.answers(answer)
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    site.answers(lambda request: request.reply(503))
    site.seen.clear()
    failing(site.url + "&2", tmp_path, "status 503", "tries: 4", "start again")
    assert len(site.seen) == 4


def test_redirects(tmp_path: Path, site: Site) -> None:
    def answer(request: Request) -> None:
        hops = int(request.path[1:])
        request.reply(302, Location=f"/{hops - 1}") if hops else request.reply(200, CONTENT)

    site.answers(answer)
    assert fetch(f"http://{site.host}/5", tmp_path, limits=QUICK).read_bytes() == CONTENT
    failing(f"http://{site.host}/6", tmp_path, f"http://{site.host}/6 ", "redirects more than 5 times", "tries: 1")


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:99999/?sig=SECRET", "http://[SECRET"],
)
def test_redirect_to_nowhere(tmp_path: Path, site: Site, target: str) -> None:
    site.answers(lambda request: request.reply(302, Location=target))
    failing(site.url, tmp_path, "could not be downloaded")


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as gone:
        port = gone.server_port
    failing(f"http://127.0.0.1:{port}/a.zip?sig=SECRET", tmp_path, f":{port}/a.zip", "refused", "tries: 4")


def test_silent_server(tmp_path: Path, site: Site) -> None:
    never = threading.Event()
    site.answers(lambda _: never.wait(5) and None)
    limits = FetchLimits(read_seconds=0.05, retries=1, backoff_seconds=0.01)
    failing(site.url, tmp_path, "timed out", "tries: 2", limits=limits)
    never.set()


def test_each_try_that_failed_is_told_and_silence_has_an_end(tmp_path: Path, site: Site) -> None:
    never = threading.Event()
    site.answers(lambda _: never.wait(5) and None)
    lines: list[str] = []
    limits = FetchLimits(read_seconds=0.05, retries=100, backoff_seconds=0.01, silent_seconds=0.3)
    with pytest.raises(InputError, match="timed out"):
        fetch(site.url, tmp_path, limits=limits, warn=lines.append)
    assert (
        lines[0]
        == f"training_data_url: http://{site.host}/data/clips.zip: timed out (try 1 of 101); the next in 0.01 s"
    )
    assert 1 < len(lines) < 10
    never.set()


@pytest.mark.parametrize("length", [str(len(CONTENT)), ""])
def test_too_large(tmp_path: Path, site: Site, length: str) -> None:
    """With Content-Length nothing is read; without one the bytes are counted."""
    site.answers(lambda request: request.reply(200, CONTENT, Content_Length=length, ETag='"1"'))
    calls: list[tuple[int, int | None]] = []
    limits = FetchLimits(max_bytes=200_000)
    with pytest.raises(InputError) as caught:
        fetch(site.url, tmp_path, limits=limits, progress=lambda *call: calls.append(call))
    (item,) = caught.value.items
    assert item.as_wire() == {
        "loc": ["body", "training_data_url"],
        "msg": item.msg,
        "type": "file_too_large",
        "ctx": {"max_size": 200_000},
    }
    assert f"http://{site.host}/data/clips.zip is larger than the 200,000 bytes" in item.msg
    assert "SECRET" not in item.msg
    assert all(done <= 200_000 for done, _ in calls)
    assert not (length and calls)
    assert left_in(tmp_path) == []
    assert len(site.seen) == 1
    exact = FetchLimits(max_bytes=len(CONTENT))
    assert fetch(site.url, tmp_path, limits=exact).read_bytes() == CONTENT


def test_web_page_is_named_by_unpack(tmp_path: Path, site: Site) -> None:
    site.answers(lambda request: request.reply(200, b"<!doctype html><title>Sign in</title>"))
    path = fetch(site.url, tmp_path, limits=QUICK)
    with pytest.raises(InputError, match=r"clips-.*\.zip is not a \.zip archive: it looks like a web page"):
        unpack(path, tmp_path / "out")


def test_downloaded_archive_unpacks(tmp_path: Path, site: Site) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as made:
        made.writestr("a.txt", "words")
    body = (tmp_path / "made.zip").read_bytes()
    site.answers(lambda request: request.reply(200, body))
    unpack(fetch(site.url, tmp_path, limits=QUICK), tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "words"


def ranges(request: Request, content: bytes, version: str, cut: int | None = None) -> None:
    """What RFC 9110 asks of a server with ranges, for the one form of range that is used."""
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if not start or request.headers.get("If-Range") != version:
        return request.reply(200, content, cut, ETag=version)
    if start >= len(content):
        return request.reply(416, Content_Range=f"bytes */{len(content)}")
    where = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return request.reply(206, content[start:], cut, Content_Range=where, ETag=version)


def test_resume_within_a_call(tmp_path: Path, site: Site) -> None:
    site.answers(lambda request: ranges(request, CONTENT, '"1"', cut=100_000))
    calls: list[tuple[int, int | None]] = []
    path = fetch(site.url, tmp_path, limits=QUICK, progress=lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT
    got = [headers.get("Range") for _, headers in site.seen]
    assert got == [None, "bytes=100000-", "bytes=200000-"]
    assert [headers.get("If-Range") for _, headers in site.seen] == [None, '"1"', '"1"']
    assert all(total == len(CONTENT) for _, total in calls)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert left_in(tmp_path) == [path.name]


def broken_off(site: Site, into: Path, **headers: str) -> None:
    """Leave the first 100,000 bytes of a download in `into`."""
    site.answers(lambda request: request.reply(200, CONTENT, 100_000, **headers))
    failing(site.url, into, "tries: 1", limits=FetchLimits(retries=0))
    site.seen.clear()


def test_resume_in_a_later_call(tmp_path: Path, site: Site) -> None:
    broken_off(site, tmp_path, ETag='"1"')
    site.answers(lambda request: ranges(request, CONTENT, '"1"'))
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    assert [headers["Range"] for _, headers in site.seen] == ["bytes=100000-"]


def test_resume_by_date(tmp_path: Path, site: Site) -> None:
    date = "Tue, 01 Jul 2025 10:00:00 GMT"
    broken_off(site, tmp_path, Last_Modified=date, ETag='W/"weak"')
    site.answers(lambda request: ranges(request, CONTENT, date))
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    assert [headers["If-Range"] for _, headers in site.seen] == [date]


def test_no_resume_without_a_version(tmp_path: Path, site: Site) -> None:
    broken_off(site, tmp_path)
    site.answers(lambda request: ranges(request, CONTENT, '"1"'))
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    assert "Range" not in site.seen[0][1]


def test_changed_file_starts_over(tmp_path: Path, site: Site) -> None:
    broken_off(site, tmp_path, ETag='"1"')
    changed = CONTENT[::-1]
    site.answers(lambda request: ranges(request, changed, '"2"'))
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == changed


def test_server_that_ignores_if_range(tmp_path: Path, site: Site) -> None:
    broken_off(site, tmp_path, ETag='"1"')
    changed = CONTENT[::-1]

    def answer(request: Request) -> None:
        del request.headers["If-Range"]
        request.headers["If-Range"] = '"2"'
        ranges(request, changed, '"2"')

    site.answers(answer)
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == changed
    assert len(site.seen) == 2


@pytest.mark.parametrize(
    ("start", "content_range"),
    [(0, "bytes 0-299999/*"), (99_999, "bytes 99999-299999/*"), (0, ""), (0, "bytes what")],
)
def test_range_that_does_not_fit_starts_over(tmp_path: Path, site: Site, start: int, content_range: str) -> None:
    broken_off(site, tmp_path, ETag='"1"')

    def answer(request: Request) -> None:
        if "Range" in request.headers:
            request.reply(206, CONTENT[start:], Content_Range=content_range, ETag='"1"')
        else:
            request.reply(200, CONTENT)

    site.answers(answer)
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    assert len(site.seen) == 2


def test_part_longer_than_the_file(tmp_path: Path, site: Site) -> None:
    broken_off(site, tmp_path, ETag='"1"')
    site.answers(lambda request: ranges(request, CONTENT[:50_000], '"1"'))
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT[:50_000]


def test_server_that_gives_a_shorter_range(tmp_path: Path, site: Site) -> None:
    """RFC 9110 lets a server answer with less than was asked for; the rest is asked for again."""
    broken_off(site, tmp_path, ETag='"1"')

    def answer(request: Request) -> None:
        start = int(request.headers["Range"][6:-1])
        piece = CONTENT[start : start + 80_000]
        where = f"bytes {start}-{start + len(piece) - 1}/{len(CONTENT)}"
        request.reply(206, piece, Content_Range=where, ETag='"1"')

    site.answers(answer)
    assert fetch(site.url, tmp_path, limits=QUICK).read_bytes() == CONTENT
    assert len(site.seen) == 3
