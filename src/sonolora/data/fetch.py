"""From an address to a local path.

In: a path, an http(s) URL or a base64 `data:` URI. Out: the path of a file or folder on this machine.
Downloads are limited in size, redirects and time, and resume where they broke off if the server supports it.
No message or log line contains the query string or the password of a URL, which may be secrets.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx

from sonolora import __version__
from sonolora.core.atomic_files import atomic_write, writing
from sonolora.core.download import (
    DownloadError,
    Progress,
    RetryPolicy,
    StatusError,
    TooLargeError,
    TooSlowError,
    download,
)
from sonolora.core.errors import InputError
from sonolora.core.object_store import ObjectAddress, ObjectStore
from sonolora.core.public_addresses import PrivateAddressError, PublicTransport
from sonolora.core.web_address import AddressError, parse_web_address

ADVICE = {
    401: "Provide a link that needs no login, such as a signed one.",
    403: "The link may be private or have expired: make a new one.",
    404: "Check the address.",
    410: "The file was removed: upload it again.",
}


@dataclass(frozen=True)
class FetchLimits:
    """Limits of a download. `retries`: after a try that brought nothing new, waiting 1, 2, 4... backoffs."""

    max_bytes: int = 20 << 30
    seconds: float = 6 * 3600  # of all tries together: a server may send a byte a minute
    redirects: int = 5
    retries: int = 3
    backoff_seconds: float = 1.0
    silent_seconds: float = 120.0  # without a new byte; then there is no other try
    connect_seconds: float = 10.0
    read_seconds: float = 60.0


@dataclass(frozen=True)
class Sources:
    """Where data may come from: anywhere for a user of this machine, less for requests of strangers."""

    local: bool = True  # paths of this machine
    private: bool = True  # hosts that are not on the public internet
    # Our own addresses, and the files behind them, here or in an object store; None where there is none any more.
    known: Mapping[str, Path | ObjectAddress | None] = field(default_factory=dict)


ANYWHERE = Sources()


def fetch(
    source: str,
    into: Path,
    *,
    field: str = "training_data_url",
    sources: Sources = ANYWHERE,
    limits: FetchLimits = FetchLimits(),
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> Path:
    """The local path of `source`; whatever is not on this machine is first written into the folder `into`.

    A local path is returned unchanged. A download has the same name at every call with the same URL: a complete one is
    not fetched again (`into` belongs to one run), a broken one is resumed. `progress` gets (bytes so far, bytes in all
    or None), `warn` a line for each try that failed and is repeated.

    Raises InputError for `field`: nothing there, `file_download_error` (also for what `sources` does not allow, at
    redirects, too), or `file_too_large` (ctx `max_size`); `OutputError` when `into` cannot be written.
    """
    source = source.strip()
    if source in sources.known:
        known = sources.known[source]
        if isinstance(known, ObjectAddress):
            with writing(into):
                known = _from_store(known, into, progress)
        if known is None or not known.is_file():
            raise InputError.of(
                field,
                "there is no such file on this server: it has expired, or its address is mistyped. Upload it again.",
                "file_download_error",
            )
        return known
    match _scheme(source):
        case "":
            return _local(source, field, sources)
        case "http" | "https":
            with writing(into):
                return _remote(source, into, field, sources, limits, progress, warn)
        case "data":
            with writing(into):
                return _inline(source, into, field, limits)
        case other:
            raise InputError.of(
                field,
                f"{other}:// addresses are not supported. Provide an http(s) URL, a data: URI or a local path.",
            )


def refuse_missing(source: str, field: str = "training_data_url") -> None:
    """Raise `InputError` for a path of this machine where nothing is; costs nothing, and lets addresses pass."""
    if not _scheme(source.strip()):
        _local(source.strip(), field, ANYWHERE)


def without_secrets(source: str) -> str:
    """An address to show: a URL without user, password, query and fragment; a data: URI without its data."""
    if source.lower().startswith("data:"):
        return source.partition(",")[0]
    try:
        url = parse_web_address(source)
    except AddressError:
        return "" if "://" in source else source
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def _scheme(source: str) -> str:
    """Such as `https` or `data`, in lower case; empty for a path."""
    found = re.match(r"([a-z][a-z0-9+.-]*)://|(data):", source, re.IGNORECASE)
    return (found[1] or found[2]).lower() if found else ""


def _local(source: str, field: str, sources: Sources) -> Path:
    if not sources.local:  # whether it exists is not revealed
        raise InputError.of(
            field,
            "this is not a URL, and paths are not accepted here. Provide an http(s) URL or a data: URI, or upload "
            "the file.",
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
    with atomic_write(file) as temporary:
        temporary.write_bytes(content)
    return file


def _from_store(known: ObjectAddress, into: Path, progress: Progress | None) -> Path | None:
    """None where there is no object of that name."""
    file = into / _stable_name(known.name, known.name)
    into.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        return file
    report = None if progress is None else lambda done: progress(done, None)
    return file if ObjectStore(known.store).download(known.name, file, report) else None


def _remote(
    source: str,
    into: Path,
    field: str,
    sources: Sources,
    limits: FetchLimits,
    progress: Progress | None,
    warn: Callable[[str], None] | None,
) -> Path:
    try:
        url = parse_web_address(source)
    except AddressError as error:
        msg = f"this is not a valid URL: {error}. One looks like https://host/path/clips.zip."
        raise InputError.of(field, msg) from None
    file = into / _stable_name(url.path, str(url))
    if file.is_file():
        return file
    into.mkdir(parents=True, exist_ok=True)
    shown = without_secrets(str(url))

    def failed(why: str) -> InputError:
        return InputError.of(field, f"{shown} {why}", type="file_download_error")

    client = httpx.Client(
        transport=None if sources.private else PublicTransport(),
        max_redirects=limits.redirects,
        timeout=httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds),
        # A compressed body has no stable byte offsets to resume at.
        headers={"User-Agent": f"sonolora/{__version__}", "Accept-Encoding": "identity"},
    )
    policy = RetryPolicy(limits.retries, limits.backoff_seconds, limits.silent_seconds)
    bounds: Any = {"max_bytes": limits.max_bytes, "seconds": limits.seconds}

    def failed_once(why: str, tries: int, wait: float) -> None:
        if warn:
            warn(f"{field}: {shown}: {why} (try {tries} of {limits.retries + 1}); the next in {wait:g} s")

    try:
        with client:
            return download(client, url, file, policy, **bounds, progress=progress, on_failure=failed_once)
    except PrivateAddressError as error:
        raise failed(
            f"was not downloaded: {error}. Upload the file, give a public URL, or have the server started with "
            "--allow-private-urls."
        ) from None
    except StatusError as error:
        raise failed(
            f"answered with {error}. {ADVICE.get(error.status, 'Check that it is the address of a file.')}"
        ) from None
    except TooLargeError:
        raise _too_large(shown, field, limits) from None
    except TooSlowError as error:
        raise failed(
            f"took longer than {limits.seconds:g} s: {error.received:,} bytes came. Put the file on a faster server, "
            "or make it smaller."
        ) from None
    except DownloadError as error:
        raise failed(
            f"could not be downloaded (tries: {error.tries}): {error}. Check that the address opens from this machine, "
            "then start again."
        ) from None


def _too_large(what: str, field: str, limits: FetchLimits) -> InputError:
    return InputError.of(
        field,
        f"{what} is larger than the {limits.max_bytes:,} bytes allowed. Make it smaller, for instance with "
        "fewer or shorter clips.",
        type="file_too_large",
        max_size=limits.max_bytes,
    )


def _stable_name(path: str, whole: str) -> str:
    """The file name of a URL, made harmless, with a mark of the whole URL: two URLs never share a file."""
    name = Path(re.sub(r"[^\w.-]+", "_", path.rsplit("/", 1)[-1]).lstrip(".") or "download")
    mark = sha256(whole.encode()).hexdigest()[:16]
    return f"{name.stem[:40]}-{mark}{name.suffix[:8]}"
