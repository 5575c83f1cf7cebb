"""Stored files in an object store: `content/<id>/<sha256>/<name>` below the address that the server was given.

In: files whose content is complete. Out: the same for every server with that address and database. A fault of the
object store is a `RemoteError`, which is waited out like one of the database.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sonolora.core.object_store import ObjectStore, ObjectStoreError
from sonolora.runs.run_copy import RunCopy, remove_copies
from sonolora.server.database.faults import StoreError
from sonolora.server.files.names import disposition
from sonolora.server.files.records import StoredFile

UNKNOWN_SECONDS = 30 * 86_400.0  # that content is kept which the database knows nothing of: it may come back
_SWEEP_SECONDS = 86_400.0  # between two looks at all objects, for which one pays
LINK_SECONDS = 3600.0  # that an address to download from is valid


class RemoteError(StoreError):
    """The object store cannot be used now."""

    what = "object store"


class RemoteFiles:
    """`redirect`: clients download from the object store itself, which they must be able to reach."""

    def __init__(self, objects: ObjectStore, *, redirect: bool = False) -> None:
        self.objects, self._redirect = objects, redirect
        self._swept = 0.0

    def put(self, file: StoredFile, path: Path) -> None:
        """Store the content; headers of downloads go with it."""
        kind, content_type = disposition(file.content_type)
        attributes = {
            "Content-Type": content_type,
            "Content-Disposition": f"{kind}; filename*=utf-8''{quote(file.name, safe='')}",
        }
        with _faults():
            self.objects.put(file.object_name, path, attributes)

    def fetch(self, file: StoredFile, path: Path) -> None:
        with _faults():
            if not self.objects.fetch(file.object_name, path):
                raise RemoteError(self.objects.address, f"it has lost the file {file.id}")

    async def stream(self, file: StoredFile, start: int, end: int) -> AsyncIterator[bytes]:
        """The content from byte `start` up to `end`."""
        with _faults():
            async for block in self.objects.stream(file.object_name, start, end):
                yield block

    def link(self, file: StoredFile) -> str | None:
        """Where clients download the content from; None for: through this server."""
        return self.objects.signed(file.object_name, LINK_SECONDS) if self._redirect else None

    def delete(self, id: str) -> None:
        with _faults():
            for one in list(self.objects.list(f"content/{id}")):
                self.objects.delete(one.name)

    def remove_run_copies(self, request_id: str) -> None:
        """What `RunCopy` has stored of a request."""
        with _faults():
            remove_copies(self.objects, request_id)

    def clean(self, now: float, known: Collection[str]) -> int:
        """Once a day delete objects whose ids are not known and that are old; returns how many."""
        if time.monotonic() - self._swept < _SWEEP_SECONDS and self._swept:
            return 0
        self._swept = time.monotonic()
        removed = 0
        with _faults():
            for one in list(self.objects.list("content")):
                if one.name.split("/")[1] not in known and one.changed < now - UNKNOWN_SECONDS:
                    self.objects.delete(one.name)
                    removed += 1
        return removed


def collect(copy: RunCopy, folder: Path) -> None:
    """All that an attempt at a run has made, once it is over."""
    with _faults():
        copy.collect(folder, own=True)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except ObjectStoreError as error:
        raise RemoteError(str(error).partition(": ")[0], error.reason, "Look at its log and at the network") from error
