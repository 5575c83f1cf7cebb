"""The download engine against a server on this machine. How data and models use it: see their tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from local_site import Request, Site, serving

from sonolora.core.atomic_files import OutputError
from sonolora.core.download import (
    DownloadError,
    NoRangesError,
    RetriesExhaustedError,
    RetryPolicy,
    StatusError,
    TooLargeError,
    download,
    read_range,
)

QUICK = RetryPolicy(retries=3, backoff_seconds=0.001)
CONTENT = bytes(range(256)) * 400


class Ranges(Request):
    def part(self, cut: int | None = None, content: bytes = CONTENT, etag: str = '"1"') -> None:
        """Serve a range as RFC 9110 has it, at most `cut` bytes of it."""
        asked = self.headers.get("Range")
        if not asked:
            return self.reply(200, content, cut, ETag=etag)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last or len(content) - 1)
        where = f"bytes {start}-{end}/{len(content)}"
        return self.reply(206, content[start : end + 1], cut, Content_Range=where, ETag=etag)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Ranges) as site:
        yield site


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5, max_redirects=5) as client:
        yield client


@pytest.fixture
def fetch(site: Site, client: httpx.Client, tmp_path: Path) -> Callable[..., Path]:
    def run(url: str = "", **options) -> Path:
        given = {"max_bytes": 10**9, "seconds": 60.0} | options
        return download(client, httpx.URL(url or site.url), tmp_path / "file.bin", QUICK, **given)

    return run


def test_breaks_that_bring_something_new_do_not_count(site: Site, fetch) -> None:
    """Ten breaks, with three retries."""
    site.answers(lambda request: request.part(cut=10_000))
    assert fetch().read_bytes() == CONTENT
    assert site.ranges == [None, *(f"bytes={at}-" for at in range(10_000, len(CONTENT), 10_000))]


def test_a_server_that_always_breaks_at_the_same_byte_is_given_up(site: Site, fetch, tmp_path: Path) -> None:
    site.answers(lambda request: request.reply(200, CONTENT, 10_000))  # no version: nothing can be resumed
    with pytest.raises(RetriesExhaustedError) as caught:
        fetch()
    assert caught.value.tries == 4
    assert len(site.ranges) == 4
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize(
    "content_range",
    ["bytes " + "9" * 5000 + "-9/9", "bytes 0-" + "9" * 5000 + "/*", "bytes ١-٢/٣", "bytes -1-2/3", "items 0-1/2", ""],
)
def test_a_content_range_that_makes_no_sense_starts_over(site: Site, fetch, content_range: str) -> None:
    def answer(request: Request) -> None:
        if not request.headers.get("Range"):
            request.part(cut=10_000 if len(site.ranges) == 1 else None)
        else:
            request.reply(206, CONTENT[10_000:], Content_Range=content_range.encode().decode("latin-1"))

    site.answers(answer)
    assert fetch().read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=10000-", None]


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "abc"])
def test_a_content_length_that_makes_no_sense_is_an_error_in_words(site: Site, fetch, length: str) -> None:
    site.answers(lambda request: request.reply(200, CONTENT, Content_Length=length))
    with pytest.raises(DownloadError) as caught:
        fetch(max_bytes=10**6)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "http://xn--a/x",
        "http://a..b/x",
        f"http://{'a' * 64}.example/x",
        "http://.../",
        "http://[SECRET",
        "http://:99999999",
    ],
)
def test_a_redirect_to_an_odd_address_is_an_error_in_words(site: Site, fetch, target: str) -> None:
    site.answers(lambda request: request.reply(302, Location=target))
    with pytest.raises(DownloadError) as caught:
        fetch()
    assert "SECRET" not in str(caught.value)
    assert len(site.ranges) <= 4


def test_the_server_says_when_to_try_again(site: Site, fetch) -> None:
    def answer(request: Request) -> None:
        request.reply(503, Retry_After="1") if len(site.ranges) == 1 else request.part()

    site.answers(answer)
    began = time.monotonic()
    assert fetch().read_bytes() == CONTENT
    assert 1 <= time.monotonic() - began < 5
    site.answers(lambda request: request.reply(503, Retry_After="9" * 5000))
    with pytest.raises(RetriesExhaustedError, match="status 503"):
        fetch()


def test_a_refusal_is_final(site: Site, fetch) -> None:
    site.answers(lambda request: request.reply(404))
    with pytest.raises(StatusError, match="status 404 Not Found") as caught:
        fetch()
    assert caught.value.status == 404
    assert site.ranges == [None]


def test_too_large_leaves_nothing(site: Site, fetch, tmp_path: Path) -> None:
    site.answers(lambda request: request.part())
    with pytest.raises(TooLargeError):
        fetch(max_bytes=len(CONTENT) - 1)
    assert list(tmp_path.iterdir()) == []


def test_room_is_looked_at_before_the_first_byte(site: Site, fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answers(lambda request: request.part())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    calls: list[int] = []
    with pytest.raises(OutputError, match="GB are needed"):
        fetch(progress=lambda done, _: calls.append(done))
    assert calls == []


def test_a_range_is_read_through_breaks(site: Site, client: httpx.Client) -> None:
    site.answers(lambda request: request.part(cut=7_000))
    assert b"".join(read_range(client, site.url, 5000, 50_000, len(CONTENT), QUICK)) == CONTENT[5000:50_000]
    assert site.ranges == [f"bytes={at}-49999" for at in range(5000, 50_000, 7000)]


def test_anything_but_the_range_is_refused(site: Site, client: httpx.Client) -> None:
    for answer in (
        lambda request: request.reply(200, CONTENT),
        lambda request: request.reply(206, CONTENT[1:5], Content_Range=f"bytes 1-4/{len(CONTENT)}"),
        lambda request: request.reply(206, CONTENT[:4], Content_Range="bytes 0-3/4"),
    ):
        site.answers(answer)
        with pytest.raises(NoRangesError):
            list(read_range(client, site.url, 0, 4, len(CONTENT), QUICK))
