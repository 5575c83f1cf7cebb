"""An object store: S3 and what speaks like it, by its address `s3://bucket/prefix`.

In: names, such as `content/1/lora.safetensors`, and files. Out: the same on other machines. Credentials, region and
endpoint come from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
`AWS_ENDPOINT_URL`). An object is there as a whole or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import file_digest
from pathlib import Path
from typing import Any

from sonolora.core.atomic_files import PartialFile, atomic_write, require_free, writing
from sonolora.core.errors import SonoloraError

_BLOCK_BYTES = 4 << 20
_RETRY_SECONDS = 60  # how long the store may be away before a call fails
_BROKEN_DOWNLOADS = 5  # in a row, each without a new byte, before a download fails
_PAUSE_SECONDS = 1.0  # before a broken download is continued
_SCHEMES = ("s3://", "gs://", "az://", "file:///")  # file: for tests, and for disks that all machines share


class ObjectStoreError(SonoloraError):
    """The store cannot be used now, for this `reason`, which says nothing of its address."""

    def __init__(self, address: str, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{address}: {reason} ({detail})")


@dataclass(frozen=True)
class StoredObject:
    name: str
    size: int  # bytes
    changed: float  # unix seconds
    tag: str = ""  # another one for other content


@dataclass(frozen=True)
class ObjectAddress:
    """Where an object is, for another machine: a store by its address, and a name in it."""

    store: str
    name: str


class ObjectStore:
    """Names are below the prefix of the address. Any thread may call."""

    def __init__(self, address: str, *, retry_seconds: float = _RETRY_SECONDS) -> None:
        """Raises `SonoloraError` for an address that is none."""
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise SonoloraError("an object store needs obstore: install it with pip install 'sonolora[s3]'") from None
        if not address.startswith(_SCHEMES) or address.endswith("://"):
            raise SonoloraError(f"the address of an object store is s3://bucket/prefix, not {address!r}")
        self.address, self._obstore = address, obstore
        self._store: Any
        more: dict[str, Any] = {"mkdir": True} if address.startswith("file:") else _network(retry_seconds)
        with self._faults():
            self._store = from_url(address, **more)

    def put(self, name: str, path: Path, attributes: Mapping[str, str] | None = None) -> None:
        """Store a file, large ones in parts. `attributes` are headers of its downloads, such as `Content-Type`."""
        more: dict[str, Any] = {} if self.address.startswith("file:") else {"attributes": dict(attributes or {})}
        with self._faults():
            self._obstore.put(self._store, name, path, **more)

    def create(self, name: str, content: bytes) -> bool:
        """Store bytes if there is no object of that name; of several that try, one succeeds. False for the others.

        What one stores must be its own: the same bytes are taken for what a lost answer has stored.
        """
        from obstore.exceptions import AlreadyExistsError

        with self._faults():
            try:
                self._obstore.put(self._store, name, content, mode="create")
            except AlreadyExistsError:
                return self.read(name) == content
        return True

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None where there is none."""
        with self._faults():
            try:
                return bytes(self._obstore.get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    def fetch(self, name: str, path: Path) -> bool:
        """Write an object to a file, which is there as a whole or not at all. False where there is no object."""
        with self._faults():
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError:
                return False
        with atomic_write(path) as temporary:
            temporary.touch()
            self._append(name, temporary, found.meta["size"], found.meta["e_tag"] or "", found)
        return True

    def download(
        self, name: str, path: Path, progress: Callable[[int], None] | None = None, *, sha256: str | None = None
    ) -> bool:
        """As `fetch`, for a large object: a download that broke off is continued, also by a later process.

        `progress` gets the bytes so far. Content of another SHA-256 than this one is removed, and is an
        `ObjectStoreError`. Raises `OutputError` when the disk has no room.
        """
        with self._faults():
            try:
                head = self._obstore.head(self._store, name)
            except FileNotFoundError:
                return False
        size, tag, partial = int(head["size"]), head["e_tag"] or "", PartialFile(path)
        with writing(path):
            if partial.resume()[0] != f"{size} {tag}" or partial.size > size:
                partial.begin(f"{size} {tag}")
            require_free(path.parent, size - partial.size)
        with writing(path):
            self._append(name, partial.part, size, tag, progress=progress)
        if sha256 is not None:
            with partial.part.open("rb") as file:
                if file_digest(file, "sha256").hexdigest() != sha256:
                    partial.discard()
                    raise ObjectStoreError(self.address, "it has damaged content", f"{name} has another SHA-256")
        with writing(path):
            partial.finish()
        return True

    def _append(
        self,
        name: str,
        path: Path,
        size: int,
        tag: str,
        found: Any = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Append what a file lacks of an object, whose beginning may have been `found`; a break is continued."""
        broken = 0
        while (begin := path.stat().st_size) < size:
            have = begin
            try:
                with self._faults(), path.open("ab") as file:
                    options: Any = {"range": {"offset": begin}, **({"if_match": tag} if tag else {})}
                    found = found or self._obstore.get(self._store, name, options=options)
                    for block in found.stream(min_chunk_size=_BLOCK_BYTES):
                        file.write(block)
                        have += len(block)
                        if progress:
                            progress(have)
            except ObjectStoreError:
                found = None
                broken = broken + 1 if path.stat().st_size == begin else 0
                if broken == _BROKEN_DOWNLOADS:
                    raise
                time.sleep(_PAUSE_SECONDS)

    async def stream(self, name: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of an object from `start` up to `end`, a request for each block: a reader may be slow."""
        for begin in range(start, end, _BLOCK_BYTES):
            with self._faults():
                stop = min(begin + _BLOCK_BYTES, end)
                yield bytes(await self._obstore.get_range_async(self._store, name, start=begin, end=stop))

    def signed(self, name: str, seconds: float) -> str | None:
        """A URL from which anyone can download the object for so long; None where the store has no such."""
        if self.address.startswith("file:"):
            return None
        with self._faults():
            return str(self._obstore.sign(self._store, "GET", name, timedelta(seconds=seconds)))

    def list(self, under: str) -> Iterator[StoredObject]:
        """The objects below a name, in no order."""
        with self._faults():
            for page in self._obstore.list(self._store, prefix=under):
                for one in page:
                    yield StoredObject(one["path"], one["size"], one["last_modified"].timestamp(), one["e_tag"] or "")

    def delete(self, name: str) -> None:
        """Also where there is none."""
        with self._faults(), suppress(FileNotFoundError):
            self._obstore.delete(self._store, name)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise ObjectStoreError(self.address, "access is denied", _short(error) + self._advice()) from error
        except BaseError as error:
            raise ObjectStoreError(self.address, "it cannot be reached", _short(error) + self._advice()) from error

    def _advice(self) -> str:
        """Without a key in the environment, the machine's own role is asked for, which few machines have."""
        if not self.address.startswith("s3://") or "AWS_ACCESS_KEY_ID" in os.environ:
            return ""
        return (
            ". AWS_ACCESS_KEY_ID is not set: set it with AWS_SECRET_ACCESS_KEY, AWS_REGION and, for anything but AWS, "
            "AWS_ENDPOINT_URL"
        )


def _network(retry_seconds: float) -> dict[str, Any]:
    retry = {"max_retries": 10, "retry_timeout": timedelta(seconds=retry_seconds)}
    options = {"connect_timeout": "5s", "timeout": "60s"}  # of one request, with its body
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    return {"retry_config": retry, "client_options": options}


def _short(error: Exception) -> str:
    """Without the debug output, which has several lines."""
    return " ".join(str(error).partition("\n")[0].split())[:300]
