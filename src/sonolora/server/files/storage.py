"""Files that clients upload and that runs put out, on disk and in the database.

In: bytes as they arrive, whole or in parts, or a file of a finished run. Out: `StoredFile`s, until they expire.
A file's address holds 192 random bits, so whoever has been told it may read the file.

    content/<id>/<name>           complete files; replaced as a whole, never changed
    parts/<id>/<number>-<sha256>  parts that have arrived of uploads that are not complete
    incoming/                     what is being written; it moves to one of the above when all of it is on the disk

One process writes here. It may be killed at any moment: what it leaves behind is then found by `clean`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit
from weakref import WeakValueDictionary

from sqlalchemy import Row, delete, insert, select
from starlette.concurrency import run_in_threadpool

from sonolora.core.errors import SonoloraError, first_few
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.tables import files

ABANDONED = 86_400.0  # seconds without a new part after which an upload is given up
LONGEST_NAME = 160  # bytes
_BLOCK = 1 << 20
_MEDIA_TYPE = re.compile(r"[a-z0-9][\w.+-]{0,60}/[a-z0-9][\w.+-]{0,60}", re.ASCII)
_ADDRESS = re.compile(r"(?:/cdn)?/files/([^/]+)/[^/]+")


class UploadError(SonoloraError):
    """Content that is not taken, with the reason in words; `status` is the HTTP code for it."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class StoredFile:
    """A row of the table `files`, and where the content is. Times are unix seconds."""

    id: str
    name: str
    content_type: str
    path: Path
    created: float
    expires: float | None = None  # None: kept
    key_id: str | None = None  # who uploads it
    request_id: str | None = None  # whose output it is
    size: int = 0  # bytes
    sha256: str | None = None  # in hexadecimal digits
    complete: bool = False

    @property
    def address(self) -> str:
        """The path of its URL."""
        return f"/files/{self.id}/{quote(self.name, safe='')}"


@contextmanager
def _disk_faults() -> Iterator[None]:
    """Tell the sender that the disk is full, or what else is wrong with it."""
    try:
        yield
    except OSError as error:
        raise UploadError(507, f"the file could not be stored: {error.strerror or error}") from error


class Storage:
    """The files of one server. `max_bytes` is the largest size of an upload."""

    def __init__(self, folder: Path, store: Store, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._store = store
        self._content, self._parts, self._incoming = folder / "content", folder / "parts", folder / "incoming"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in (self._content, self._parts, self._incoming):
            place.mkdir(mode=0o700, exist_ok=True)
        self._writing: dict[Path, str] = {}  # what is in `incoming` now, and of which file
        self._publishing = threading.Lock()
        self._completing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def adopt(self, path: Path, name: str, content_type: str, *, request_id: str, expires: float | None) -> StoredFile:
        """Take in an output of a run, by hard link where the disk can; it replaces one that had its name."""
        file = replace(self.new(name, content_type), request_id=request_id, expires=expires)
        with self._temporary(file.id) as temporary:
            try:
                temporary.hardlink_to(path)
            except OSError:
                shutil.copyfile(path, temporary)
            with temporary.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                os.fsync(content.fileno())
                size = content.tell()
            file = self._publish(replace(file, size=size, sha256=sha256), temporary)
        # A server that was killed before it noted the result does all of this again.
        with self._store.reader.connect() as connection:
            same = select(files.c.id).where(files.c.request_id == request_id, files.c.name == file.name)
            earlier = [id for id in connection.scalars(same) if id != file.id]
        for id in earlier:
            self._discard(id)
        return file

    def find(self, id: str) -> StoredFile | None:
        """The complete file; None when there is none (any more)."""
        file = self.begun(id)
        if file is None or not file.complete or (file.expires is not None and file.expires <= time.time()):
            return None
        return file if file.path.is_file() else None

    def local(self, url: str) -> Path | None:
        """The file behind one of our own URLs, whatever the host in it: we may be reachable by several names."""
        id = file_id(url)
        file = self.find(id) if id else None
        return file.path if file else None

    def new(
        self, name: str, content_type: str, *, key_id: str | None = None, lifetime: float | None = None
    ) -> StoredFile:
        """A file that nobody knows of yet, to last so many seconds; its name and media type are made harmless."""
        id, name, now = secrets.token_urlsafe(24), safe_name(name), time.time()
        expires = None if lifetime is None else now + lifetime
        return StoredFile(id, name, media_type(content_type), self._content / id / name, now, expires, key_id)

    def begin(self, file: StoredFile) -> None:
        """Note a new file whose content comes with later requests, at any time within a day."""
        self._save(file)

    def begun(self, id: str) -> StoredFile | None:
        """The file, complete or not, expired or not."""
        with self._store.reader.connect() as connection:
            row = connection.execute(select(files).where(files.c.id == id)).one_or_none()
        return None if row is None else self._file(row)

    async def receive(self, file: StoredFile, chunks: AsyncIterable[bytes]) -> StoredFile:
        """Store the whole content, in place of an earlier one. Raises `UploadError`, and then leaves nothing."""
        async with self._written(file.id, chunks, self.max_bytes) as (temporary, size, sha256):
            received = replace(_restarted(file), size=size, sha256=sha256)
            return await run_in_threadpool(self._publish, received, temporary)

    async def receive_part(self, file: StoredFile, number: int, chunks: AsyncIterable[bytes]) -> str:
        """Store a part and give its etag. Parts come in any order and as often as the sender likes."""
        if file.complete:
            raise UploadError(400, "this upload is complete; start another one")
        others = await run_in_threadpool(self._bytes_of_others, file.id, number)
        async with self._written(file.id, chunks, self.max_bytes - others) as (temporary, _, sha256):
            folder = self._parts / file.id
            folder.mkdir(mode=0o700, exist_ok=True)
            temporary.replace(folder / f"{number}-{sha256}")
        return sha256

    async def complete(self, file: StoredFile, parts: Mapping[int, str]) -> StoredFile:
        """Put the parts, given as number to etag, together in the order of their numbers; once, if asked twice.

        Raises `UploadError` when one of them has not arrived, and then more can be sent.
        """
        # Putting together takes a while, in which an impatient client asks again.
        async with self._completing.setdefault(file.id, asyncio.Lock()):
            return await run_in_threadpool(self._join, file.id, parts)

    def clean(self, now: float) -> int:
        """Remove what is of no use any more and give how many things that was.

        That is expired files, uploads abandoned for a day, files without a row and rows without a file.
        """
        # In this order: what is on the disk is then either being written or has its row.
        on_disk = [*self._content.iterdir(), *self._parts.iterdir(), *self._incoming.iterdir()]
        writing = self._writing.copy()
        busy = set(writing.values())
        removed = 0
        with self._publishing:  # what is old cannot become new meanwhile
            with self._store.reader.connect() as connection:
                known = {row.id: self._file(row) for row in connection.execute(select(files))}
            for file in known.values():
                if file.id not in busy and self._is_useless(file, now):
                    self._discard(file.id)
                    removed += 1
            for path in on_disk:
                if path.parent == self._incoming:
                    is_left = path not in writing
                else:
                    owner = known.get(path.name)
                    # Also parts that came after the file was put together.
                    is_late = path.parent == self._parts and owner is not None and owner.complete
                    is_left = path.name not in busy and (owner is None or is_late)
                if is_left and path.exists():
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _is_useless(self, file: StoredFile, now: float) -> bool:
        if file.complete:
            return (file.expires is not None and file.expires <= now) or not file.path.exists()
        folder = self._parts / file.id
        touched = folder.stat().st_mtime if folder.exists() else 0.0  # when a part was put in
        return max(file.created, touched) < now - ABANDONED

    def _arrived(self, id: str) -> dict[tuple[int, str], Path]:
        """The parts that are here, by number and etag."""
        folder = self._parts / id
        paths = list(folder.iterdir()) if folder.is_dir() else []
        return {(int(number), etag): path for path in paths for number, _, etag in [path.name.partition("-")]}

    @_disk_faults()
    def _bytes_of_others(self, id: str, number: int) -> int:
        return sum(path.stat().st_size for (other, _), path in self._arrived(id).items() if other != number)

    @_disk_faults()
    def _join(self, id: str, parts: Mapping[int, str]) -> StoredFile:
        file = self.begun(id)
        if file is None:
            raise UploadError(404, "there is no such upload (any more)")
        if file.complete:
            return file
        arrived = self._arrived(id)
        wanted = sorted(parts.items())
        if missing := [str(number) for number, etag in wanted if (number, etag) not in arrived]:
            shown = first_few(missing, 10)
            raise UploadError(400, f"not here with the etags given: part {shown}. Send it and complete again")
        paths = [arrived[part] for part in wanted]
        size = sum(path.stat().st_size for path in paths)
        if size > self.max_bytes:
            raise UploadError(413, _too_large(self.max_bytes))
        with self._temporary(id) as temporary:
            digest = hashlib.sha256()
            with temporary.open("xb") as whole:
                for path in paths:
                    with path.open("rb") as part:
                        while block := part.read(_BLOCK):
                            _append(whole, digest, block)
                _settle(whole)
            file = self._publish(replace(_restarted(file), size=size, sha256=digest.hexdigest()), temporary)
        shutil.rmtree(self._parts / id, ignore_errors=True)
        return file

    @contextmanager
    def _temporary(self, id: str) -> Iterator[Path]:
        """A path in `incoming` for content of the file `id`; what has not moved on from there is removed."""
        path = self._incoming / secrets.token_hex(16)
        self._writing[path] = id
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            del self._writing[path]

    @asynccontextmanager
    async def _written(self, id: str, chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[tuple[Path, int, str]]:
        """Write what comes, `limit` bytes at most, to the disk; yields where it is, its size and its sha256."""
        size, digest = 0, hashlib.sha256()
        with _disk_faults(), self._temporary(id) as temporary:
            with temporary.open("xb") as content:
                block = bytearray()
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise UploadError(413, _too_large(self.max_bytes))
                    block += chunk
                    if len(block) >= _BLOCK:  # going to a thread and back costs more than a chunk is worth
                        await run_in_threadpool(_append, content, digest, block)
                        block = bytearray()
                await run_in_threadpool(_append, content, digest, block)
                await run_in_threadpool(_settle, content)
            yield temporary, size, digest.hexdigest()

    def _publish(self, file: StoredFile, temporary: Path) -> StoredFile:
        """Put the content in its place and note that it is there."""
        file = replace(file, complete=True)
        # Of two that write the same file at once, one has the last word both on disk and in the database.
        with self._publishing:
            file.path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary.replace(file.path)
            _settle_folder(file.path.parent)
            _settle_folder(self._content)
            self._save(file)
        return file

    def _save(self, file: StoredFile) -> None:
        with self._store.engine.begin() as connection:
            connection.execute(delete(files).where(files.c.id == file.id))
            connection.execute(insert(files), {column.name: getattr(file, column.name) for column in files.c})

    def _discard(self, id: str) -> None:
        with self._store.engine.begin() as connection:
            connection.execute(delete(files).where(files.c.id == id))
        for place in (self._content, self._parts):
            shutil.rmtree(place / id, ignore_errors=True)

    def _file(self, row: Row[Any]) -> StoredFile:
        return StoredFile(**row._mapping, path=self._content / row.id / row.name)


def safe_name(name: str) -> str:
    """The name as it can stand on any disk, in a header and in an address: still readable, never a path.

    Its folders go, and characters that are no text (controls, reversals of the direction of writing, halves of
    surrogate pairs); those that some disk refuses become '_', and the end of what stands before the suffix goes
    where the name is too long.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name).rstrip("/\\"))[-1]
    text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in last)
    text = re.sub(r'[<>:"|?*]', "_", text).strip(" .")
    if len(text.encode()) > LONGEST_NAME:
        suffix = Path(text).suffix if len(Path(text).suffix.encode()) <= 20 else ""
        stem = text.encode()[: LONGEST_NAME - len(suffix.encode())].decode(errors="ignore")
        text = stem.rstrip(" .") + suffix
    return text or "file"


def media_type(content_type: str) -> str:
    """The type and subtype alone; that of unknown content when it is not one."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence if _MEDIA_TYPE.fullmatch(essence) else "application/octet-stream"


def _restarted(file: StoredFile) -> StoredFile:
    """With its lifetime counted from now, when its content is there."""
    now = time.time()
    return replace(file, created=now, expires=file.expires and file.expires + now - file.created)


def _append(content: IO[bytes], digest: hashlib._Hash, block: bytes | bytearray) -> None:
    content.write(block)
    digest.update(block)


def _settle(content: IO[bytes]) -> None:
    """Return when all of it is on the disk."""
    content.flush()
    os.fsync(content.fileno())


def _settle_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_id(url: str) -> str | None:
    """Of the stored file that a URL is of, if it leads to one of our servers; None for what looks like no such URL."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return None
    try:
        address = _ADDRESS.fullmatch(urlsplit(url).path)
    except ValueError:
        return None
    return address[1] if address else None


def _too_large(max_bytes: int) -> str:
    return f"the file is too large: this server takes up to {max_bytes} bytes"
