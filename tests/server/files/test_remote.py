"""Stored files in an object store: what another server, or this one without its disk, finds of them."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sonolora.core.object_store import ObjectStore, ObjectStoreError
from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files import remote as module
from sonolora.server.files.records import StoredFile
from sonolora.server.files.remote import RemoteError, RemoteFiles
from sonolora.server.files.storage import COPY_SECONDS, Storage
from sonolora.server.shared_secrets import share_secrets

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'sonolora[s3]'")
DAY = 86_400.0


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path}/objects")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        yield database


def server(tmp_path: Path, name: str, database: Database, objects: ObjectStore) -> Storage:
    return Storage(tmp_path / name, database, 1_000_000, RemoteFiles(objects))


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def received(storage: Storage, content: bytes, file: StoredFile | None = None) -> StoredFile:
    return asyncio.run(storage.receive(file or storage.new("a.zip", "application/zip"), pieces(content)))


def names(objects: ObjectStore) -> list[str]:
    return [one.name for one in objects.list("content")]


def test_another_server_has_the_file(tmp_path: Path, database: Database, objects: ObjectStore) -> None:
    first, second = (server(tmp_path, name, database, objects) for name in ("one", "two"))
    whole = received(first, b"content")
    upload = first.new("b.zip", "application/zip")
    first.begin(upload)
    etags = {number: asyncio.run(first.receive_part(upload, number, pieces(b"%d" % number))) for number in (2, 1)}
    parts = asyncio.run(first.complete(upload, etags))
    for file, content in ((whole, b"content"), (parts, b"12")):
        found = second.find(file.id)
        assert found and not second.is_here(found) and second.elsewhere(found) is not None
        path = second.local(f"http://server{file.address}")
        assert path and path.read_bytes() == content and path.is_relative_to(tmp_path / "two")
        assert second.elsewhere(found) is None
        assert second.find(file.id) == found, "a copy counts as unchanged"


def test_content_that_replaces_other_content(tmp_path: Path, database: Database, objects: ObjectStore) -> None:
    first, second = (server(tmp_path, name, database, objects) for name in ("one", "two"))
    file = received(first, b"old")
    received(first, b"new", file)
    assert (path := second.local(f"http://server{file.address}")) and path.read_bytes() == b"new"


def test_what_expires_is_removed_everywhere(tmp_path: Path, database: Database, objects: ObjectStore) -> None:
    storage = server(tmp_path, "one", database, objects)
    file = storage.new("a.zip", "application/zip", lifetime=10)
    received(storage, b"content", file)
    assert len(names(objects)) == 1
    assert storage.clean(time.time() + 11) == 1
    assert names(objects) == [] and storage.begun(file.id) is None and not file.path.exists()


def test_old_copies_leave_the_disk_and_come_back(
    tmp_path: Path, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = server(tmp_path, "one", database, objects)
    file = received(storage, b"content")
    storage.clean(time.time())
    assert storage.is_here(file)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + COPY_SECONDS + 1)
    storage.clean(real())
    assert not storage.is_here(file)
    assert storage.content(file).read_bytes() == b"content"


def test_a_changed_copy_is_not_given_out(tmp_path: Path, database: Database, objects: ObjectStore) -> None:
    storage = server(tmp_path, "one", database, objects)
    file = received(storage, b"content")
    file.path.write_bytes(b"changed")
    assert storage.find(file.id) and not storage.is_here(file)
    assert storage.content(file).read_bytes() == b"content"


def test_objects_without_a_record_stay_for_weeks(
    tmp_path: Path, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = server(tmp_path, "one", database, objects)
    kept = received(storage, b"content")
    objects.create("content/unknown/0/a.zip", b"?")
    now = time.time()
    assert storage.clean(now + 29 * DAY) == 0 and len(names(objects)) == 2
    assert storage.clean(now + 31 * DAY) == 0, "it looks once a day"
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.0)
    assert storage.clean(now + 31 * DAY) == 1
    assert names(objects) == [kept.object_name]


def test_while_the_store_is_away_nothing_is_recorded(
    tmp_path: Path, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = server(tmp_path, "one", database, objects)

    def put(*_: object) -> None:
        raise ObjectStoreError("s3://studio", "it cannot be reached", "connection refused")

    file = storage.new("a.zip", "application/zip")
    with monkeypatch.context() as away:
        away.setattr(objects, "put", put)
        with pytest.raises(RemoteError) as caught:
            received(storage, b"content", file)
    assert caught.value.public == "the server's object store cannot be used: it cannot be reached"
    assert storage.find(file.id) is None and not any((tmp_path / "one" / "incoming").iterdir())
    assert received(storage, b"content", file).complete


def test_a_lost_object_says_so(tmp_path: Path, database: Database, objects: ObjectStore) -> None:
    storage = server(tmp_path, "one", database, objects)
    file = received(storage, b"content")
    shutil.rmtree(file.path.parent)
    objects.delete(file.object_name)
    with pytest.raises(RemoteError, match="has lost the file"):
        storage.content(file)


def test_servers_share_what_they_sign_with(tmp_path: Path, objects: ObjectStore) -> None:
    folders = [tmp_path / name for name in ("one", "two", "one")]
    for folder in folders:
        share_secrets(objects, folder)
    for name in ("files/secret", "webhook_key.pem"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        assert (folders[1] / name).stat().st_mode & 0o077 == 0
