"""The file store: what clients upload and what runs produce, on disk and in the database.

With an object store the content is there, and the disk holds copies of what was used lately: other servers, and this
one without its disk, have all that the database knows of.

In: bytes as they arrive, whole or in parts, or a file of a finished run. Out: `StoredFile`s, until they expire.
A file's address holds 192 random bits: whoever knows it may read the file.

    content/<id>/<name>           complete files; replaced as a whole, never changed
    parts/<id>/<number>-<sha256>  parts of uploads that are not complete
    incoming/                     what is being written; moved to one of the above once all of it is on the disk
    unknown/                      content without a record, or other than its record says

One process writes here. It may be killed at any moment: `clean` removes what it leaves behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterable, Mapping
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool

from sonolora.core.atomic_files import writing
from sonolora.runs.run_copy import RunCopy
from sonolora.server import clock
from sonolora.server.database.database import Database
from sonolora.server.files.incoming import Incoming, UploadError, Written, sync, sync_folder
from sonolora.server.files.multipart import Parts
from sonolora.server.files.names import file_id
from sonolora.server.files.records import FileRecords, StoredFile
from sonolora.server.files.remote import RemoteFiles
from sonolora.server.files.unknown import Unknown

ABANDONED_SECONDS = 86_400.0  # without a new part before an upload is given up
COPY_SECONDS = 86_400.0  # that the copy of an object is kept on the disk; a run reads its files when it starts


class Storage:
    """The files of one server. `max_bytes` is the largest size of an upload.

    Raises `OutputError` when the folder cannot be written.
    """

    def __init__(self, folder: Path, database: Database, max_bytes: int, remote: RemoteFiles | None = None) -> None:
        self.folder, self._remote = folder, remote
        self._content = folder / "content"
        self._records = FileRecords(database, self._content)
        self._incoming = Incoming(folder / "incoming", max_bytes)
        self._parts = Parts(folder / "parts", self._incoming)
        self._unknown = Unknown(folder / "unknown")
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for subfolder in (self._content, self._parts.folder, self._incoming.folder, self._unknown.folder):
                subfolder.mkdir(mode=0o700, exist_ok=True)
            tempfile.TemporaryFile(dir=self._incoming.folder).close()
        self._publishing = threading.Lock()
        self._completing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def max_bytes(self) -> int:
        """The largest size of an upload."""
        return self._incoming.max_bytes

    def new(
        self, name: str, content_type: str, *, key_id: str | None = None, lifetime: float | None = None
    ) -> StoredFile:
        """A file that is not stored yet, to expire after `lifetime` seconds; its name and media type are made safe."""
        return self._records.new(name, content_type, key_id=key_id, lifetime=lifetime)

    def begin(self, file: StoredFile) -> None:
        """Record a new file whose content comes with later requests, at any time within a day."""
        self._records.save(file)

    def begun(self, id: str) -> StoredFile | None:
        """The file, complete or not, expired or not."""
        return self._records.find(id)

    def find(self, id: str) -> StoredFile | None:
        """The complete file; None when there is none (any more).

        Hashes content whose size or time is not as recorded. If it has changed, it is set aside: nobody gets it under
        the checksum of what was stored.
        """
        file = self._valid(id)
        if file is None or not self.is_here(file) or _is_as_recorded(file):
            return file
        with self._publishing:  # which replaces content and record
            file = self._valid(id)
            if file is None or not self.is_here(file) or _is_as_recorded(file):
                return file
            with file.path.open("rb") as content:
                mtime_ns = os.fstat(content.fileno()).st_mtime_ns
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            if sha256 == file.sha256:  # touched, or put back from a copy
                file = replace(file, mtime_ns=mtime_ns)
                self._records.save(file)
                return file
            self._unknown.set_aside(file.path.parent, clock.now(), "was changed on the disk and is not served any more")
            if self._remote is not None:
                return file
            self._records.delete(id)
            return None

    def is_here(self, file: StoredFile) -> bool:
        """Whether the content is on this server's disk; with an object store it may not be."""
        return file.path.is_file()

    def content(self, file: StoredFile) -> Path:
        """The path of the content on this server's disk, fetched from the object store if need be."""
        if self._remote is not None and not self.is_here(file):
            with self._incoming.temporary(file.id) as temporary:
                self._remote.fetch(file, temporary)
                os.utime(temporary, ns=(file.mtime_ns or 0, file.mtime_ns or 0))
                with self._publishing:
                    file.path.parent.mkdir(mode=0o700, exist_ok=True)
                    temporary.replace(file.path)
        return file.path

    def elsewhere(self, file: StoredFile) -> RemoteFiles | None:
        """The object store that has the content, when it is not on this server's disk."""
        return None if self.is_here(file) else self._remote

    def _valid(self, id: str) -> StoredFile | None:
        """The complete file with content that has not expired."""
        file = self.begun(id)
        if file is None or not file.complete or (file.expires is not None and file.expires <= clock.now()):
            return None
        return file if self._remote is not None or self.is_here(file) else None

    def behind(self, url: str) -> StoredFile | None:
        """The complete file behind one of our own URLs, whatever its host: the server may have several names."""
        id = file_id(url)
        return self.find(id) if id else None

    def local(self, url: str) -> Path | None:
        """The path of that file."""
        file = self.behind(url)
        return self.content(file) if file else None

    def adopt(
        self,
        path: Path,
        name: str,
        content_type: str,
        *,
        request_id: str,
        key_id: str | None = None,
        expires: float | None,
    ) -> StoredFile:
        """Store an output of a run, by hard link where possible. Replaces the request's earlier output of that name."""
        file = replace(self.new(name, content_type, key_id=key_id), request_id=request_id, expires=expires)
        with self._incoming.temporary(file.id) as temporary:
            try:
                temporary.hardlink_to(path)
            except OSError:
                shutil.copyfile(path, temporary)
            with temporary.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                sync(content)
                size = content.tell()
            file = self._publish(file, Written(temporary, size, sha256))
        # A server that was killed before it stored the result does all of this again.
        for id in self._records.outputs(request_id, file.name):
            if id != file.id:
                self._discard(id)
        return file

    async def receive(self, file: StoredFile, chunks: AsyncIterable[bytes]) -> StoredFile:
        """Store the whole content, in place of an earlier one. Raises `UploadError`, and then leaves nothing."""
        async with self._incoming.receive(file.id, chunks) as written:
            return await run_in_threadpool(self._publish, _restarted(file), written)

    async def receive_part(self, file: StoredFile, number: int, chunks: AsyncIterable[bytes]) -> str:
        """Store a part and return its etag. Parts arrive in any order and as often as the sender likes."""
        if file.complete:
            raise UploadError(400, "this upload is complete; start another one")
        return await self._parts.receive(file.id, number, chunks)

    async def complete(self, file: StoredFile, etags: Mapping[int, str]) -> StoredFile:
        """Join the parts, given as number to etag, in the order of their numbers; once, if asked twice.

        Raises `UploadError` when one of them has not arrived; more can be sent then.
        """
        # Joining takes a while, in which an impatient client asks again.
        async with self._completing.setdefault(file.id, asyncio.Lock()):
            return await run_in_threadpool(self._join, file.id, etags)

    def clean(self, now: float) -> int:
        """Remove what is of no use any more and return how many things that was.

        That is expired files, uploads abandoned for a day, and what was being written when a server was killed. What
        has no record is set aside. A record without its content stays until it expires: a disk may be missing.
        """
        # In this order: what is on the disk is then either being written or has its row.
        on_disk = [path for folder in (self._content, self._parts.folder) for path in folder.iterdir()]
        incoming = list(self._incoming.folder.iterdir())
        writing = self._incoming.owners
        busy = set(writing.values())
        removed = 0
        with self._publishing:  # what is old cannot become new meanwhile
            known = self._records.all()
            for file in known.values():
                self._unknown.put_back(file.path.parent if file.complete else self._parts.folder / file.id)
                if file.id not in busy and self._is_useless(file, now):
                    self._discard(file.id)
                    removed += 1
            for path in on_disk:
                owner = known.get(path.name)
                if path.name in busy or not path.exists():
                    continue
                if self._remote is not None and path.parent == self._content and _age(path) > COPY_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
                elif owner is None:
                    self._unknown.set_aside(path, now, "is in no record of the database")
                elif owner.complete and path.parent == self._parts.folder:  # arrived after the file was joined
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
            for path in incoming:
                if path not in writing and path.exists():
                    path.unlink(missing_ok=True)
                    removed += 1
        if self._remote is not None:
            removed += self._remote.clean(now, known)
        return removed + self._unknown.clean(now)

    def run_copy(self, request_id: str, attempt: int) -> RunCopy | None:
        """What an attempt at a run puts into the object store, if there is one."""
        return None if self._remote is None else RunCopy(self._remote.objects, request_id, attempt)

    def remove_run_copies(self, request_id: str) -> None:
        """What attempts at a run have left in the object store, if there is one."""
        if self._remote is not None:
            self._remote.remove_run_copies(request_id)

    def restart_waiting(self, now: float) -> None:
        """Count from now what waits to be deleted, after the system's clock was set."""
        self._unknown.restart(now)

    def _is_useless(self, file: StoredFile, now: float) -> bool:
        if file.complete:
            return file.expires is not None and file.expires <= now
        return max(file.created, self._parts.last_change(file.id)) < now - ABANDONED_SECONDS

    def _join(self, id: str, etags: Mapping[int, str]) -> StoredFile:
        file = self.begun(id)
        if file is None:
            raise UploadError(404, "there is no such upload (any more)")
        if file.complete:
            return file
        with self._parts.joined(id, etags) as written:
            file = self._publish(_restarted(file), written)
        self._parts.discard(id)
        return file

    def _publish(self, file: StoredFile, written: Written) -> StoredFile:
        """Move the content to its place and record it."""
        mtime_ns = written.path.stat().st_mtime_ns
        file = replace(file, size=written.size, sha256=written.sha256, mtime_ns=mtime_ns, complete=True)
        if self._remote is not None:
            self._remote.put(file, written.path)
        # Of two that write the same file at once, the same one wins on disk and in the database.
        with self._publishing:
            file.path.parent.mkdir(mode=0o700, exist_ok=True)
            written.path.replace(file.path)
            sync_folder(file.path.parent)
            sync_folder(self._content)
            self._records.save(file)
        return file

    def _discard(self, id: str) -> None:
        self._records.delete(id)
        if self._remote is not None:
            self._remote.delete(id)
        shutil.rmtree(self._content / id, ignore_errors=True)
        self._parts.discard(id)


def _age(path: Path) -> float:
    """Seconds since something was put into a folder, by the file system's clock."""
    return time.time() - path.stat().st_mtime


def _is_as_recorded(file: StoredFile) -> bool:
    """Whether the content has the size and the time of change that it had when it was hashed."""
    stat = file.path.stat()
    return (stat.st_size, stat.st_mtime_ns) == (file.size, file.mtime_ns)


def _restarted(file: StoredFile) -> StoredFile:
    """With its lifetime counted from now, when its content has arrived."""
    now = clock.now()
    return replace(file, created=now, expires=file.expires and file.expires + now - file.created)
