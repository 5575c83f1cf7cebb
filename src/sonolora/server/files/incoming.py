"""Content while it is being written: on the disk as a whole before it gets its place.

In: bytes as they arrive. Out: a complete file in `incoming/`, which the caller moves to its place. What has not been
moved is removed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from starlette.concurrency import run_in_threadpool

from sonolora.core.errors import SonoloraError

BLOCK_BYTES = 1 << 20


class UploadError(SonoloraError):
    """Content that is refused, with the reason in words; `status` is the HTTP code for it."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@contextmanager
def disk_faults() -> Iterator[None]:
    """Turn an OSError inside the block into an `UploadError` that the sender may read: it holds no path."""
    try:
        yield
    except OSError as error:
        raise UploadError(507, f"the file could not be stored: {error.strerror or error}") from error


@dataclass(frozen=True)
class Written:
    """A complete file, not yet in its place."""

    path: Path
    size: int  # bytes
    sha256: str  # hexadecimal


class Incoming:
    """The files being written into one folder; `max_bytes` is the largest allowed. One process writes there."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._owners: dict[Path, str] = {}

    @property
    def owners(self) -> dict[Path, str]:
        """The files being written now, each with the id of the stored file that it belongs to."""
        return self._owners.copy()

    def check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise UploadError(413, f"the file is too large: this server accepts up to {self.max_bytes} bytes")

    @contextmanager
    def temporary(self, id: str) -> Iterator[Path]:
        """A path for content of the stored file `id`; removed at the end unless it was moved."""
        path = self.folder / secrets.token_hex(16)
        self._owners[path] = id
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            del self._owners[path]

    @asynccontextmanager
    async def receive(self, id: str, chunks: AsyncIterable[bytes], taken: int = 0) -> AsyncIterator[Written]:
        """Write what arrives. `taken` bytes of the largest size are used already. Raises `UploadError` (413, 507)."""
        with disk_faults(), self.temporary(id) as path:
            with path.open("xb") as file:
                writer = HashingWriter(file)
                block, size = bytearray(), taken
                async for chunk in chunks:
                    size += len(chunk)
                    self.check_size(size)
                    block += chunk
                    if len(block) >= BLOCK_BYTES:  # a thread for each chunk would cost more than the chunk
                        await run_in_threadpool(writer.write, block)
                        block = bytearray()
                await run_in_threadpool(writer.write, block)
                await run_in_threadpool(sync, file)
            yield Written(path, writer.size, writer.sha256)


class HashingWriter:
    """Writes to a file and hashes what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes | bytearray) -> None:
        self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def sync(file: IO[bytes]) -> None:
    """Return when all of it is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in it are on the disk, where the file system can tell."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
