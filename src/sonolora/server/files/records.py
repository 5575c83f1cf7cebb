"""What the database knows of a stored file."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Row, delete, select

from sonolora.server import clock
from sonolora.server.database.database import Database
from sonolora.server.database.tables import files
from sonolora.server.files.names import media_type, safe_name


@dataclass(frozen=True)
class StoredFile:
    """A row of the table `files`, and the path of the content. Times are unix seconds."""

    id: str
    name: str
    content_type: str
    path: Path
    created: float
    expires: float | None = None  # None: never
    key_id: str | None = None  # the key that uploads it, or that made its request
    request_id: str | None = None  # the request whose output it is
    size: int = 0  # bytes
    sha256: str | None = None  # hexadecimal
    mtime_ns: int | None = None  # of the content when it was hashed; None: not recorded
    complete: bool = False

    @property
    def object_name(self) -> str:
        """In an object store; content that replaces other content has another."""
        return f"content/{self.id}/{self.sha256}/{self.name}"

    @property
    def address(self) -> str:
        """The path of its URL."""
        return f"/files/{self.id}/{quote(self.name, safe='')}"


class FileRecords:
    """`content` is the folder that holds each file as `<id>/<name>`."""

    def __init__(self, database: Database, content: Path) -> None:
        self._database = database
        self._content = content

    def new(
        self, name: str, content_type: str, *, key_id: str | None = None, lifetime: float | None = None
    ) -> StoredFile:
        """A file with an id that cannot be guessed, not saved yet, that expires after `lifetime` seconds."""
        id, name, now = secrets.token_urlsafe(24), safe_name(name), clock.now()
        expires = None if lifetime is None else now + lifetime
        return StoredFile(id, name, media_type(content_type), self._content / id / name, now, expires, key_id)

    def find(self, id: str) -> StoredFile | None:
        rows = self._database.read(select(files).where(files.c.id == id))
        return self._file(rows[0]) if rows else None

    def all(self) -> dict[str, StoredFile]:
        """By id."""
        return {row.id: self._file(row) for row in self._database.read(select(files))}

    def outputs(self, request_id: str, name: str) -> list[str]:
        """The ids of a request's outputs of that name."""
        same = select(files.c.id).where(files.c.request_id == request_id, files.c.name == name)
        return [row.id for row in self._database.read(same)]

    def save(self, file: StoredFile) -> None:
        """In place of an earlier row of that id."""
        self._database.write(
            self._database.upsert(files), {column.name: getattr(file, column.name) for column in files.c}
        )

    def delete(self, id: str) -> None:
        self._database.write(delete(files).where(files.c.id == id))

    def _file(self, row: Row[Any]) -> StoredFile:
        return StoredFile(**row._mapping, path=self._content / row.id / row.name)
