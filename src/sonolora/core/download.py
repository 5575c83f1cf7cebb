"""Downloads over HTTP: retries, byte ranges, resuming and complete files, for data and models alike.

In: an httpx client and an address. Out: a complete file (`download`), or the bytes of a range as they arrive
(`read_range`). A response that breaks off is continued from there. The text of a `DownloadError` never contains the
address, which may hold secrets.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from sonolora.core.atomic_files import PartialFile, require_free
from sonolora.core.errors import SonoloraError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all or None if unknown
OnFailure = Callable[[str, int, float], None]  # why a try failed, which it was, seconds until the next

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 300.0  # seconds that a server may ask for with Retry-After
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)")

# httpx logs every request at INFO with the whole URL, query string included.
logging.getLogger("httpx").setLevel(logging.WARNING)


class DownloadError(SonoloraError):
    """A download that failed, and would again."""

    tries = 1


class StatusError(DownloadError):
    """A server that refuses, with an HTTP status."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        super().__init__(f"status {self.status} {response.reason_phrase}".rstrip())


class RetriesExhaustedError(DownloadError):
    """The last of `tries` requests in a row that brought no new byte failed."""

    def __init__(self, reason: str, tries: int) -> None:
        self.tries = tries
        super().__init__(reason)


class TooLargeError(DownloadError):
    """More bytes than allowed; none of them is kept."""


class TooSlowError(DownloadError):
    """The time is up. `received`: bytes so far."""

    def __init__(self, received: int) -> None:
        self.received = received
        super().__init__(f"{received:,} bytes received in time")


class NoRangesError(DownloadError):
    """A server that does not send the requested range."""


class _RangeNotSatisfiableError(Exception):
    """The file is shorter than the start of the range."""


class _TransientError(Exception):
    """A failure that the next try may not have; `wait`: seconds that the server asks for."""

    def __init__(self, reason: str, retry_after: str = "") -> None:
        super().__init__(reason)
        self.wait = min(float(retry_after), _LONGEST_WAIT) if _NUMBER.fullmatch(retry_after) else 0.0


@dataclass(frozen=True)
class RetryPolicy:
    """`retries` after a try that brought nothing new, waiting 1, 2, 4... times `backoff_seconds` before each.

    None once nothing new has come for `silent_seconds`: a try may take long, as a host may have many addresses.
    """

    retries: int = 5
    backoff_seconds: float = 1.0
    silent_seconds: float = math.inf


class _Retries:
    """Counts the failures in a row of one download."""

    def __init__(self, policy: RetryPolicy, on_failure: OnFailure | None = None) -> None:
        self._policy, self._on_failure = policy, on_failure
        self._failures, self._furthest, self._last_news = 0, 0, time.monotonic()

    def reached(self, position: int) -> None:
        """Bytes up to `position` have come; only new ones count, for a server may cut at the same byte every time."""
        if position > self._furthest:
            self._furthest, self._failures, self._last_news = position, 0, time.monotonic()

    def failed(self, error: Exception) -> None:
        """Wait before the next try. Raises `DownloadError` when there is none."""
        self._failures += 1
        reason = str(error) or type(error).__name__
        silent = time.monotonic() - self._last_news
        if self._failures > self._policy.retries or silent > self._policy.silent_seconds:
            raise RetriesExhaustedError(reason, self._failures) from None
        wait = max(self._policy.backoff_seconds * 2 ** (self._failures - 1), getattr(error, "wait", 0.0))
        if self._on_failure:
            self._on_failure(reason, self._failures, wait)
        time.sleep(wait)


def read_range(client: httpx.Client, url: str, start: int, end: int, size: int, policy: RetryPolicy) -> Iterator[bytes]:
    """Bytes `start` to before `end` of a file of `size` bytes that never changes, in blocks.

    Raises `DownloadError`: a `StatusError`, `NoRangesError` for any other response, `RetriesExhaustedError`.
    """
    retries = _Retries(policy)
    while start < end:
        try:
            with _requested(client, url, {"Range": f"bytes={start}-{end - 1}"}) as response:
                if response.status_code != 206 or _content_range(response) != (start, end, size):
                    raise NoRangesError("it does not support range requests")
                for block in response.iter_raw():
                    if start + len(block) > end:
                        raise _TransientError("more bytes came than requested")
                    start += len(block)
                    retries.reached(start)
                    yield block
            if start < end:
                raise _TransientError("the response was cut off")
        except (httpx.TransportError, _TransientError) as error:
            retries.failed(error)


def download(
    client: httpx.Client,
    url: httpx.URL,
    file: Path,
    policy: RetryPolicy,
    *,
    max_bytes: int,
    seconds: float,
    progress: Progress | None = None,
    on_failure: OnFailure | None = None,
) -> Path:
    """Download to `file`, which appears when it is complete; a partial download of the same version is resumed.

    `on_failure` is told of a try that failed and will be repeated.

    `seconds` is for all tries together: a server may send a byte a minute. Raises `DownloadError`: a `StatusError`,
    `TooLargeError`, `TooSlowError`, `RetriesExhaustedError`; and `OutputError` when the disk has no room.
    """
    partial, retries = PartialFile(file), _Retries(policy, on_failure)
    deadline = time.monotonic() + seconds

    def check_size(size: int) -> None:
        if size > max_bytes:
            partial.discard()
            raise TooLargeError(f"larger than {max_bytes:,} bytes")

    def once() -> Path:
        version, _ = partial.resume()
        have = partial.size if version else 0
        with _requested(client, url, {"Range": f"bytes={have}-", "If-Range": version} if have else {}) as response:
            if response.status_code == 206:
                start, _, total = _content_range(response)
                # Some servers heed Range but not If-Range: look at the version, too.
                if start != have or _version(response) not in ("", version):
                    partial.discard()
                    raise _TransientError("the partial response does not continue the earlier download")
            else:
                have, total = 0, _content_length(response)
                partial.begin(_version(response))
            check_size(total or 0)
            require_free(file.parent, (total or have) - have)
            with partial.part.open("ab") as out:
                # Blocks as they come: with a fixed size the bytes before a break would be lost.
                for block in response.iter_bytes():
                    have += len(block)
                    check_size(have)
                    if time.monotonic() > deadline:
                        raise TooSlowError(have)
                    out.write(block)
                    retries.reached(have)
                    if progress:
                        progress(have, total)
        if total is not None and have != total:
            raise _TransientError(f"{have:,} of {total:,} bytes received")
        return partial.finish()

    while True:
        try:
            return once()
        except _RangeNotSatisfiableError:
            partial.discard()
            retries.failed(_TransientError("the file there is shorter than the earlier download"))
        except (httpx.TransportError, _TransientError) as error:
            retries.failed(error)


@contextmanager
def _requested(client: httpx.Client, url: httpx.URL | str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """A response of status 200, or 206 to a request with a range. Whatever makes no sense is a `DownloadError`."""
    try:
        request = client.build_request("GET", url, headers=headers)
        response = client.send(request, stream=True, follow_redirects=True)
    except httpx.TooManyRedirects:
        raise DownloadError(f"it redirects more than {client.max_redirects} times") from None
    except httpx.UnsupportedProtocol as error:
        raise DownloadError(str(error)) from None
    except (httpx.InvalidURL, httpx.RemoteProtocolError, ValueError, OverflowError) as error:
        if isinstance(error, httpx.RemoteProtocolError) and not isinstance(error.__context__, httpx.InvalidURL):
            raise
        # The messages of these may quote a password.
        raise DownloadError("its address, or one that it redirects to, is not a valid URL") from None
    with closing(response):
        status = response.status_code
        if status in RETRIED_STATUS:
            raise _TransientError(f"the server answered with status {status}", response.headers.get("retry-after", ""))
        if status == 416 and "Range" in headers:
            raise _RangeNotSatisfiableError
        if status != 200 and not (status == 206 and "Range" in headers):
            raise StatusError(response)
        try:
            yield response
        except httpx.DecodingError as error:
            raise DownloadError(str(error)) from None


def _version(response: httpx.Response) -> str:
    """What If-Range takes to ask for more of the same bytes: a strong ETag, else a date, else ''."""
    etag: str = response.headers.get("etag", "")
    version = etag if etag.startswith('"') else response.headers.get("last-modified", "")
    return version if version.isascii() and "content-encoding" not in response.headers else ""


def _content_length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if _NUMBER.fullmatch(length) and "content-encoding" not in response.headers else None


def _content_range(response: httpx.Response) -> tuple[int, int, int | None]:
    """(start, end, total or None if unknown) of a 206 response; the start is -1 where the header makes no sense."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    return (int(match[1]), int(match[2]) + 1, int(match[3]) if match[3] else None) if match else (-1, -1, None)
