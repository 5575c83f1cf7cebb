"""From what the user points at to a local path.

In: a path, an http(s) URL or a base64 `data:` URI. Out: the path of a file or folder on this machine.
Downloads are limited in size, redirects and time, and go on where they broke off when the server can do that.
No message or log line holds the query string of a URL or its password: that is where the secrets live.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote_to_bytes

import httpx

from sonolora import __version__
from sonolora.core.atomic_files import writing
from sonolora.core.errors import InputError
from sonolora.core.public_addresses import PrivateAddressError, PublicTransport
from sonolora.core.web_address import AddressError, parse_web_address

Fetched = Callable[[int, int | None], None]

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
ADVICE = {
    401: "Give a link that needs no login, such as a signed one.",
    403: "The link may be private or have expired: make a new one.",
    404: "Check the address.",
    410: "The file was removed: upload it again.",
}

# httpx logs every request at INFO with the whole URL, query string included.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True)
class FetchLimits:
    """What a download may cost. `retries` come on top of the first try, after 1, 2, 4... backoffs."""

    max_bytes: int = 20 << 30
    seconds: float = 6 * 3600  # of all tries together: a server may send a byte a minute
    redirects: int = 5
    retries: int = 3
    backoff_seconds: float = 1.0
    connect_seconds: float = 10.0
    read_seconds: float = 60.0


@dataclass(frozen=True)
class Sources:
    """Where data may come from: all that a person at this machine may name, or less, for requests of strangers."""

    local: bool = True  # paths of this machine
    private: bool = True  # hosts that are not on the public internet
    # Addresses that lead here, and the file with their content; None where there is none (any more).
    known: Mapping[str, Path | None] = field(default_factory=dict)


ANYWHERE = Sources()


def fetch(
    source: str,
    into: Path,
    *,
    field: str = "training_data_url",
    sources: Sources = ANYWHERE,
    limits: FetchLimits = FetchLimits(),
    progress: Fetched | None = None,
) -> Path:
    """Give the local path of `source`; what is not on this machine is first written into the folder `into`.

    A local path comes back as it is. A download has the same name at every call with the same URL: a
    finished one is not asked for again (`into` belongs to one run), a broken one is resumed. `progress` gets
    (bytes so far, bytes in all if the server says).

    Raises InputError for `field`: nothing there, `file_download_error` (also for what `sources` does not allow, at a
    redirect too), or `file_too_large` (ctx `max_size`); `OutputError` when `into` cannot be written.
    """
    source = source.strip()
    if source in sources.known:
        if (known := sources.known[source]) is None or not known.is_file():
            raise InputError.of(
                field,
                "there is no such file on this server: it has expired, or its address is mistyped. Upload it again.",
                "file_download_error",
            )
        return known
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://|(data):", source, re.IGNORECASE)
    match (scheme[1] or scheme[2]).lower() if scheme else "":
        case "":
            return _local(source, field, sources)
        case "http" | "https":
            with writing(into):
                return _remote(source, into, field, sources, limits, progress)
        case "data":
            with writing(into):
                return _inline(source, into, field, limits)
        case other:
            raise InputError.of(
                field,
                f"{other}:// addresses are not supported. Give an http(s) URL, a data: URI or a local path.",
            )


def without_secrets(source: str) -> str:
    """An address for others to see: a URL without user, password, query and fragment; a data: URI without its data."""
    if source.lower().startswith("data:"):
        return source.partition(",")[0]
    try:
        url = parse_web_address(source)
    except AddressError:
        return "" if "://" in source else source
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def _local(source: str, field: str, sources: Sources) -> Path:
    if not sources.local:  # and not a word on whether it exists
        raise InputError.of(
            field,
            "this is not a URL, and paths are not accepted here. Give an http(s) URL or a data: URI, or upload the "
            "file.",
            type="file_download_error",
        )
    path = Path(source)
    try:
        found = bool(source) and (path.is_file() or path.is_dir())
    except OSError:  # a name longer than the file system allows
        found = False
    if not found:
        name = source if len(source) <= 200 else source[:200] + "..."
        raise InputError.of(field, f"there is no file or folder '{name}'. Check the path.")
    return path


def _inline(source: str, into: Path, field: str, limits: FetchLimits) -> Path:
    header, _, payload = source.partition(",")
    if not header.lower().endswith(";base64"):
        raise InputError.of(field, "the data: URI is not base64. Write it as data:<type>;base64,<content>.")
    if len(payload) * 3 // 4 > limits.max_bytes:
        raise _too_large("the data: URI", field, limits)
    encoded = b"".join(unquote_to_bytes(payload).split())
    try:
        content = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except binascii.Error as error:
        msg = f"the data: URI holds damaged base64 ({error}). Encode it again."
        raise InputError.of(field, msg) from None
    file = into / f"data-{sha256(content).hexdigest()[:16]}"
    into.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_bytes(content)
    return part.replace(file)


class _TryAgainError(Exception):
    """This try failed in a way that the next may not; the message says how."""


def _remote(
    source: str, into: Path, field: str, sources: Sources, limits: FetchLimits, progress: Fetched | None
) -> Path:
    try:
        url = parse_web_address(source)
    except AddressError as error:
        msg = f"this is not a valid URL: {error}. One looks like https://host/path/clips.zip."
        raise InputError.of(field, msg) from None
    file = into / _stable_name(url)
    if file.is_file():
        return file
    into.mkdir(parents=True, exist_ok=True)
    return _Download(url, file, field, sources, limits, progress).run()


@dataclass(frozen=True)
class _Download:
    """One URL on its way to `file`.

    The bytes so far stay in `<file>.part`; `<file>.validator` says of which version of the remote file they
    are. It is missing when the server gives no way to tell; then nothing is resumed.
    """

    url: httpx.URL
    file: Path
    field: str
    sources: Sources
    limits: FetchLimits
    progress: Fetched | None

    @property
    def part(self) -> Path:
        return self.file.with_name(self.file.name + ".part")

    @property
    def validator(self) -> Path:
        return self.file.with_name(self.file.name + ".validator")

    @property
    def shown(self) -> str:
        """The URL without its secrets."""
        return without_secrets(str(self.url))

    def run(self) -> Path:
        limits = self.limits
        deadline = time.monotonic() + limits.seconds
        client = httpx.Client(
            transport=None if self.sources.private else PublicTransport(),
            follow_redirects=True,
            max_redirects=limits.redirects,
            timeout=httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds),
            # A compressed body has no stable byte offsets to resume at.
            headers={"User-Agent": f"sonolora/{__version__}", "Accept-Encoding": "identity"},
        )
        with client:
            for attempt in range(limits.retries + 1):
                try:
                    return self.once(client, deadline)
                except httpx.TooManyRedirects:
                    reason = f"it redirects more than {limits.redirects} times"
                    break
                except (httpx.InvalidURL, ValueError):  # the message may quote a password
                    reason = "it redirects to something that is not a URL"
                    break
                except PrivateAddressError as error:
                    raise self.failed(
                        f"was not downloaded: {error}. Upload the file, give a public URL, or have the server started "
                        "with --allow-private-urls."
                    ) from None
                except (httpx.UnsupportedProtocol, httpx.DecodingError, OverflowError) as error:
                    reason = str(error)
                    break
                except (httpx.TransportError, _TryAgainError) as error:
                    reason = str(error) or type(error).__name__
                    if attempt < limits.retries:
                        time.sleep(limits.backoff_seconds * 2**attempt)
        raise self.failed(
            f"could not be downloaded (tries: {attempt + 1}): {reason}. Check that the address opens "
            "from this machine, then start again."
        )

    def once(self, client: httpx.Client, deadline: float) -> Path:
        have, version = 0, ""
        if self.part.exists() and self.validator.exists():
            have, version = self.part.stat().st_size, self.validator.read_text("ascii")
        resume = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
        with client.stream("GET", self.url, headers=resume) as answer:
            status = answer.status_code
            said = f"answered with status {status} {answer.reason_phrase}".rstrip()
            if status == 206 and resume:
                start, total = _content_range(answer)
                # Some servers heed Range but not If-Range: look at the version too.
                if start != have or _version_of(answer) not in ("", version):
                    self.forget()
                    raise _TryAgainError("the partial answer does not continue what was downloaded before")
            elif status == 416 and resume:
                self.forget()
                raise _TryAgainError("the file there is shorter than what was downloaded before")
            elif status == 200:
                self.forget()
                have, total = 0, _length_of(answer)
                if version := _version_of(answer):
                    self.validator.write_text(version, "ascii")
            elif status in RETRIED_STATUS:
                raise _TryAgainError(f"the server {said}")
            else:
                raise self.failed(f"{said}. {ADVICE.get(status, 'Check that it is the address of a file.')}")

            self.check_size(total or 0)
            with self.part.open("ab" if have else "wb") as out:
                # As they come: a chunk size would hold back, and lose, what came before a break.
                for chunk in answer.iter_bytes():
                    have += len(chunk)
                    self.check_size(have)
                    if time.monotonic() > deadline:
                        raise self.failed(
                            f"took longer than {self.limits.seconds:g} s: {have:,} bytes came. Put the file on a "
                            "faster server, or make it smaller."
                        )
                    out.write(chunk)
                    if self.progress:
                        self.progress(have, total)
        if total is not None and have != total:
            raise _TryAgainError(f"{have} of {total} bytes came")
        self.validator.unlink(missing_ok=True)
        return self.part.replace(self.file)

    def forget(self) -> None:
        self.validator.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def check_size(self, size: int) -> None:
        if size > self.limits.max_bytes:
            self.forget()
            raise _too_large(self.shown, self.field, self.limits)

    def failed(self, why: str) -> InputError:
        return InputError.of(self.field, f"{self.shown} {why}", type="file_download_error")


def _version_of(answer: httpx.Response) -> str:
    """What If-Range takes to ask for more of the same bytes: a strong ETag, else a date, else ''."""
    etag: str = answer.headers.get("etag", "")
    version = etag if etag.startswith('"') else answer.headers.get("last-modified", "")
    return version if version.isascii() and "content-encoding" not in answer.headers else ""


def _length_of(answer: httpx.Response) -> int | None:
    if "content-encoding" in answer.headers or "content-length" not in answer.headers:
        return None
    return int(answer.headers["content-length"])


def _content_range(answer: httpx.Response) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file) of a 206 answer; first byte -1 when it does not say."""
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", answer.headers.get("content-range", ""))
    if not found:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _too_large(what: str, field: str, limits: FetchLimits) -> InputError:
    return InputError.of(
        field,
        f"{what} is larger than the {limits.max_bytes:,} bytes allowed. Make it smaller, for instance with "
        "fewer or shorter clips.",
        type="file_too_large",
        max_size=limits.max_bytes,
    )


def _stable_name(url: httpx.URL) -> str:
    """The file name in the URL, made harmless, with a mark of the whole URL: two URLs never share a file."""
    name = Path(re.sub(r"[^\w.-]+", "_", url.path.rsplit("/", 1)[-1]).lstrip(".") or "download")
    mark = sha256(str(url).encode()).hexdigest()[:16]
    return f"{name.stem[:40]}-{mark}{name.suffix[:8]}"
