"""Model files on a hub, read by HTTP ranges: of a 46 GB checkpoint only the tensors that are needed.

In: the id of a repository or of a file in it, on huggingface.co or on the mirror named by HF_ENDPOINT. Out: a
`Checkpoint` with the tensor table of the whole file, whose tensors are downloaded into a partial checkpoint when first
needed; the folder of a text encoder.

Sidecar files of the partial checkpoint FILE: FILE.header (the header bytes of the whole file) and FILE.source.json
(where it comes from). With these and the needed tensors on disk, the hub is not contacted.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import file_digest
from pathlib import Path
from urllib.parse import quote

import httpx

from sonolora import __version__
from sonolora.core.atomic_files import PartialFile, atomic_write, write_json
from sonolora.core.download import (
    DownloadError,
    NoRangesError,
    RetriesExhaustedError,
    RetryPolicy,
    StatusError,
    read_range,
)
from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import LENGTH_BYTES, TensorInfo, data_start, parse_header
from sonolora.core.user_folders import data_folder
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint, fingerprint, sampled
from sonolora.ltx.weights.partial_checkpoint import WORKERS, Progress, extend, open_excerpt, sidecar
from sonolora.ltx.weights.stored_tensor import fold_scales, with_scale_names
from sonolora.ltx.weights.tensor_table import needed

TEXT_ENCODER = "google/gemma-3-12b-it-qat-q4_0-unquantized"
_TEXT_ENCODER_FILES = ["*.json", "*.safetensors", "tokenizer.model"]
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+\.safetensors))?(?:@([\w.-]+))?")
_HEADER_GUESS = 2 << 20  # the header of LTX-2.3 has 0.9 MB
_RETRY_POLICY = RetryPolicy(retries=5)


@dataclass(frozen=True)
class HubId:
    """A repository on the hub, or one safetensors file in it, at a revision."""

    repository: str  # owner/name
    file: str | None = None
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Parse `owner/name` or `owner/name/file.safetensors`, optionally with `@revision`; None for other text."""
        match = _HUB_ID.fullmatch(text)
        if match is None or ".." in text:
            return None
        return cls(match[1], match[2], match[3] or "main")


@dataclass(frozen=True)
class Source:
    """The file on the hub that a partial checkpoint is taken from."""

    repository: str
    revision: str  # a commit hash: immutable
    file: str
    size: int
    sha256: str  # of the whole file; "" if the hub does not report it
    fingerprint: str


@dataclass(frozen=True)
class HubCheckpoint(Checkpoint):
    """A checkpoint on a hub: `tensors` and `metadata` of the whole file, `path` of the partial one on this disk."""

    source: Source
    stored: Mapping[str, TensorInfo]  # the tensors of the file, with the scales of 8-bit weights apart

    def fingerprint(self) -> str:
        return self.source.fingerprint

    def local_file(self, names: Collection[str]) -> Checkpoint:
        """The partial checkpoint. If tensors are missing, downloads everything that the mode which needs them needs."""
        excerpt = open_excerpt(self.path)
        if excerpt is None or not excerpt.tensors.keys() >= set(names):
            modes = needed(self.tensors, video=False), needed(self.tensors, video=True)
            self.fetch(next((tensors for tensors in modes if tensors >= set(names)), set(names)))
            excerpt = Checkpoint.open(self.path)
        return excerpt

    def fetch(self, names: Collection[str], progress: Progress | None = None) -> None:
        """Download what the partial checkpoint lacks of these tensors; progress goes to standard error by default."""
        header = json.loads(sidecar(self.path, "header").read_bytes()[LENGTH_BYTES:])
        metadata = {**header.get("__metadata__", {}), EXCERPT_OF: json.dumps(asdict(self.source))}
        with _Hub() as hub:
            progress = progress or log_progress(self.source.file)
            stored_names = with_scale_names(self.tensors, set(names))
            extend(self.path, self.stored, stored_names, metadata, partial(hub.read, self.source), progress)


def open_from_hub(hub_id: HubId) -> Checkpoint:
    """The checkpoint with this id: header and fingerprint are read now, tensors when they are needed.

    A complete file in Hugging Face's own cache is used directly. Raises `CheckpointError` for a repository or file that
    does not exist, may not be read or is not a safetensors file.
    """
    from huggingface_hub import try_to_load_from_cache

    with _Hub() as hub:
        file = hub_id.file or _choose(hub, hub_id)
        commit, size, digest = hub.look_up(hub_id.repository, hub_id.revision, file)
        if isinstance(whole := try_to_load_from_cache(hub_id.repository, file, revision=commit), str):
            return Checkpoint.open(Path(whole))
        path = models_folder() / hub_id.repository.replace("/", "--") / commit[:12] / file
        if not sidecar(path, "source.json").exists():
            source = Source(hub_id.repository, commit, file, size, digest, fingerprint="")
            header, source = _read_header(hub, source)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(sidecar(path, "header")) as temporary:
                temporary.write_bytes(header)
            write_json(sidecar(path, "source.json"), asdict(source))
    return open_local(path)


def open_local(path: Path) -> Checkpoint:
    """The checkpoint at a path: a `HubCheckpoint` if `open_from_hub` put it there, else the file itself."""
    try:
        source = Source(**json.loads(sidecar(path, "source.json").read_bytes()))
        header = sidecar(path, "header").read_bytes()
        metadata, tensors = parse_header(header[LENGTH_BYTES:])
    except FileNotFoundError:
        return Checkpoint.open(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: the record of its source is damaged; remove {path.parent}") from error
    return HubCheckpoint(path, fold_scales(tensors), metadata, source, tensors)


def forget(path: Path) -> None:
    """Delete a partial checkpoint and its sidecar files."""
    PartialFile(path).discard()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    with suppress(OSError):  # a folder that holds other files
        path.parent.rmdir()
        path.parent.parent.rmdir()


def fetch_text_encoder(hub_id: HubId) -> Path:
    """The folder of a text encoder, downloaded into Hugging Face's own cache if it is not there yet.

    Files are checked against their SHA-256 where the hub reports it. Raises `CheckpointError`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx in 1.x, httpx2 in 2.x

    try:
        folder = Path(
            snapshot_download(
                hub_id.repository,
                revision=hub_id.revision,
                allow_patterns=_TEXT_ENCODER_FILES,
                endpoint=_endpoint(),
            )
        )
    except (OSError, ValueError, HTTPError) as error:
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        if response is not None:
            raise _refusal(hub_id.repository, response.status_code) from None
        raise CheckpointError(
            f"{hub_id.repository}: could not be downloaded from {_host()} ({type(error).__name__}). The bytes "
            "received are kept: start again to resume"
        ) from None
    # The cache names a file after the checksum that the hub reported.
    blobs = [blob for path in folder.iterdir() if re.fullmatch("[0-9a-f]{64}", (blob := path.resolve()).name)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for blob, digest in zip(blobs, pool.map(_sha256, blobs), strict=True):
            if digest != blob.name:
                blob.unlink()
                raise CheckpointError(f"{hub_id.repository}: a file arrived corrupt and was removed; start again")
    return folder


def models_folder() -> Path:
    """`$SONOLORA_MODELS`, else `sonolora/models` in the user's data folder."""
    return Path(os.environ.get("SONOLORA_MODELS") or data_folder() / "models")


def log_progress(what: str) -> Progress:
    """A progress callback that prints a line to standard error every ten seconds."""
    started = last_print = time.monotonic()
    first: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal last_print, first
        first = done if first is None else first  # bytes of earlier runs do not count towards the speed
        now = time.monotonic()
        if now - last_print > 10 or done == total:
            last_print = now
            speed = (done - first) / 1e6 / max(now - started, 1e-3)
            print(f"{what}: {done / 1e9:.2f} of {total / 1e9:.2f} GB, {speed:.0f} MB/s", file=sys.stderr)

    return report


class _Hub:
    """Requests to the hub. The token is sent to the hub only: not to redirect targets, and not into any message."""

    def __init__(self) -> None:
        from huggingface_hub import get_token

        headers = {"User-Agent": f"sonolora/{__version__}", "Accept-Encoding": "identity"}
        if token := get_token():
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(60, connect=15),
            event_hooks={"request": [_refuse_http]},
        )

    def __enter__(self) -> _Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def files(self, hub_id: HubId) -> list[str]:
        """The file names in a repository."""
        url = f"{_endpoint()}/api/models/{hub_id.repository}/revision/{hub_id.revision}"
        with self._request(hub_id.repository, "GET", url) as response:
            response.read()
            try:
                return [entry["rfilename"] for entry in response.json()["siblings"]]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{hub_id.repository}: {_host()} is not a Hugging Face hub") from error

    def look_up(self, repository: str, revision: str, file: str) -> tuple[str, int, str]:
        """Commit, size and SHA-256 (or "") of a file, from the hub's headers before it redirects to the content."""
        url = httpx.URL(_address(repository, revision, file))
        for _ in range(5):
            with self._request(f"{repository}/{file}", "HEAD", url) as response:
                target = url.join(response.headers.get("location", ""))
                if not response.has_redirect_location or target.netloc != url.netloc:
                    break
                url = target  # a renamed repository
        headers = response.headers
        size = headers.get("x-linked-size") or headers.get("content-length", "")
        digest = headers.get("x-linked-etag", "").strip('"')
        if not headers.get("x-repo-commit") or not size.isdecimal():
            raise CheckpointError(f"{repository}/{file}: {_host()} is not a Hugging Face hub")
        return headers["x-repo-commit"], int(size), digest if re.fullmatch("[0-9a-f]{64}", digest) else ""

    def read(self, source: Source, start: int, end: int) -> Iterator[bytes]:
        """The bytes [start, end) of a file. Raises `CheckpointError`."""
        url = _address(source.repository, source.revision, source.file)
        what = f"{source.repository}/{source.file}"
        try:
            yield from read_range(self._client, url, start, end, source.size, _RETRY_POLICY)
        except StatusError as error:
            raise _refusal(what, error.status) from None
        except NoRangesError as error:
            raise CheckpointError(f"{what}: {_host()} cannot be used: {error}") from None
        except RetriesExhaustedError as error:
            raise CheckpointError(
                f"{what}: could not be downloaded from {_host()} ({error.tries} tries): {str(error).rstrip('.')}. The "
                "bytes received are kept: start again to resume"
            ) from None
        except DownloadError as error:
            raise CheckpointError(f"{what}: {_host()} redirects to an invalid address: {error}") from None

    @contextmanager
    def _request(self, what: str, method: str, url: httpx.URL | str) -> Iterator[httpx.Response]:
        """A successful response. Raises `CheckpointError`."""
        try:
            with self._client.stream(method, url, follow_redirects=method != "HEAD") as response:
                if response.status_code >= 400:
                    raise _refusal(what, response.status_code)
                yield response
        except (httpx.InvalidURL, httpx.TooManyRedirects, httpx.UnsupportedProtocol) as error:
            raise CheckpointError(f"{what}: {_host()} redirects to an invalid address: {error}") from None
        except httpx.TransportError as error:
            raise CheckpointError(f"{what}: {_host()} cannot be reached: {error}") from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _host() -> str:
    return httpx.URL(_endpoint()).host


def _address(repository: str, revision: str, file: str) -> str:
    return f"{_endpoint()}/{repository}/resolve/{revision}/{quote(file)}"


def _refuse_http(request: httpx.Request) -> None:
    if request.url.scheme != "https" and _endpoint().startswith("https:"):
        raise httpx.UnsupportedProtocol("it redirects to an address that is not https")


def _choose(hub: _Hub, hub_id: HubId) -> str:
    """The checkpoint in a repository: its only safetensors file, else the only one whose name ends with `-dev`."""
    files = [file for file in hub.files(hub_id) if file.endswith(".safetensors")]
    chosen = files if len(files) == 1 else [file for file in files if file.endswith("-dev.safetensors")]
    if len(chosen) != 1:
        raise CheckpointError(
            f"{hub_id.repository}: specify one of its checkpoints, as {hub_id.repository}/FILE: "
            f"{', '.join(files) or 'no .safetensors file'}"
        )
    return chosen[0]


def _read_header(hub: _Hub, source: Source) -> tuple[bytes, Source]:
    """The header bytes of a file, and the source with its fingerprint."""

    def read(start: int, end: int) -> bytes:
        return b"".join(hub.read(source, start, end))

    what = f"{source.repository}/{source.file}"
    start = read(0, min(source.size, _HEADER_GUESS))
    try:
        length = data_start(start, source.size)
        header = start[:length] + read(len(start), length)
        metadata, tensors = parse_header(header[LENGTH_BYTES:])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{what}: not a safetensors file") from error
    if max((info.end for info in tensors.values()), default=length) != source.size:
        raise CheckpointError(f"{what}: its header does not describe its {source.size:,} bytes")
    weights = fold_scales(tensors)
    with ThreadPoolExecutor(WORKERS) as pool:
        samples = pool.map(lambda info: read(info.start, info.end), sampled(weights))
        mark = fingerprint(weights, metadata, samples)
    return header, replace(source, fingerprint=mark)


def _refusal(what: str, status: int) -> CheckpointError:
    page = f"{_host()}/{'/'.join(what.split('/')[:2])}"
    why = {
        401: f"does not exist, or requires that you accept its licence at {page} and log in "
        "(`hf auth login`, or a token in HF_TOKEN)",
        403: f"requires that you accept its licence at {page}; the token in use has no access",
        404: f"is not on {_host()}",
    }.get(status, f"could not be read: {_host()} responds with status {status}")
    return CheckpointError(f"{what} {why}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
