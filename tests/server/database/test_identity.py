"""A database that is not the one its folder had, or not all of it, is noticed before anything is changed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sonolora.server.database import sqlite as module
from sonolora.server.database.faults import StoreError
from sonolora.server.database.identity import identity_file, read_identity
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.store import Store

REQUESTS = 12
# A server that takes requests, each of which changes only the log, and dies.
SERVER = f"""
import os, signal, sys
from pathlib import Path
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.store import Store
database = SqliteDatabase(Path(sys.argv[1]))
database.checkpoint()
Keys(database).add("first")
for _ in range({REQUESTS}):
    Store(database).add_request(NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={{"prompt": "p" * 9000}}))
database.note_identity()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two servers that were killed."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("another")
    for folder in folders:
        child = subprocess.run([sys.executable, "-c", SERVER, folder / "server.db"], check=False)
        assert child.returncode == -signal.SIGKILL
        assert (folder / "server.db-wal").stat().st_size > 9000 * REQUESTS
    return folders


@pytest.fixture
def server(killed: tuple[Path, Path], tmp_path: Path) -> Path:
    """The database of one that was killed."""
    shutil.copytree(killed[0], tmp_path / "server")
    return tmp_path / "server" / "server.db"


def contents(folder: Path) -> dict[str, bytes]:
    """But for the index of the log, which SQLite makes whenever it needs it."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {path.name: path.read_bytes() for path in files}


def count(path: Path, **options: bool) -> int:
    with closing(SqliteDatabase(path, **options)) as database:
        return len(Store(database).requests())


def refusal(path: Path) -> str:
    before = contents(path.parent)
    with pytest.raises(StoreError) as caught:
        SqliteDatabase(path)
    after = contents(path.parent)
    assert {name: content for name, content in after.items() if content or name in before} == before
    assert "restore a backup (sonolora restore)" in str(caught.value)
    assert "sonolora serve --accept-database" in str(caught.value)
    return str(caught.value)


def test_after_a_kill_everything_is_there(server: Path) -> None:
    assert count(server) == REQUESTS
    assert count(server) == REQUESTS, "also when the log has become a part of the database"


def test_a_command_in_between_changes_nothing(server: Path) -> None:
    with closing(SqliteDatabase(server)) as database:
        Keys(database).add("laptop")
    assert count(server) == REQUESTS


@pytest.mark.parametrize("loss", ["missing", "empty", "cut off"])
def test_without_its_log(server: Path, loss: str) -> None:
    log = server.with_name("server.db-wal")
    if loss == "missing":
        log.unlink()
    else:
        os.truncate(log, 0 if loss == "empty" else log.stat().st_size // 2)
    words = refusal(server)
    assert "requests are missing: it is an older copy, or its log server.db-wal is missing or cut off" in words
    assert words.startswith(f"{server}: {REQUESTS if loss != 'cut off' else ''}"), words
    assert count(server, accept=True) < REQUESTS
    assert count(server) < REQUESTS, "accepted once, accepted for good"


def test_with_the_log_of_another_server(server: Path, killed: tuple[Path, Path]) -> None:
    shutil.copy(killed[1] / "server.db-wal", server.with_name("server.db-wal"))
    assert "not the database of this folder, or server.db-wal is the log of another" in refusal(server)
    shutil.copy(killed[0] / "server.db-wal", server.with_name("server.db-wal"))
    assert count(server) == REQUESTS, "put back as the message says"


def test_another_database(server: Path, killed: tuple[Path, Path]) -> None:
    for name in ("server.db", "server.db-wal"):
        shutil.copy(killed[1] / name, server.with_name(name))
    assert "not the database of this folder" in refusal(server)


def test_another_database_with_the_own_log(server: Path, killed: tuple[Path, Path]) -> None:
    """SQLite would make one of the two."""
    shutil.copy(killed[1] / "server.db", server)
    assert "it is not the database of this folder" in refusal(server)


def test_an_older_copy_with_the_newer_log(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    with closing(SqliteDatabase(path)) as database:
        database.checkpoint()
        shutil.copy(path, tmp_path / "older.db")
        Keys(database).add("first")
        database.checkpoint()
        Keys(database).add("second")
        database.note_identity()
        shutil.copy(path.with_name("server.db-wal"), tmp_path / "log")
    identity = identity_file(path).read_bytes()
    shutil.copy(tmp_path / "older.db", path)
    shutil.copy(tmp_path / "log", path.with_name("server.db-wal"))
    identity_file(path).write_bytes(identity)
    assert "its newest changes are missing: it is an older copy" in refusal(path)


def test_a_checkpoint_that_a_reader_blocks_is_not_noted(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT_WAIT", 1)
    with closing(SqliteDatabase(server)) as database:
        noted = read_identity(server).file_checkpoints
        with closing(sqlite3.connect(server)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM requests").fetchall()
            database.checkpoint()
        assert read_identity(server).file_checkpoints == noted
        database.checkpoint()
        assert read_identity(server).file_checkpoints > noted


def test_an_older_copy(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    new = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={})
    with closing(SqliteDatabase(path)) as database:
        Store(database).add_request(new)
    shutil.copy(path, tmp_path / "copy")
    with closing(SqliteDatabase(path)) as database:
        Store(database).add_request(new)
        database.note_identity()
    shutil.copy(tmp_path / "copy", path)
    assert "1 of 2 requests are missing" in refusal(path)


@pytest.mark.parametrize("left", ["server.identity.json", "files/content/x/a.zip", "runs/x/run.json", "server.db-wal"])
def test_a_new_database_where_there_was_one(tmp_path: Path, left: str) -> None:
    path = tmp_path / "server.db"
    if left in ("server.identity.json", "server.db-wal"):
        SqliteDatabase(path).close()
        identity_file(path).unlink(missing_ok=left == "server.db-wal")
        path.unlink()
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    content = '{"store": "a", "checkpoints": 1, "requests": 2, "events": 3, "keys": 4}'
    (tmp_path / left).write_text(content)
    assert "there is no database, but there is" in refusal(path)
    assert not path.exists()
    assert count(path, accept=True) == 0
    assert count(path) == 0


def test_folders_of_a_server_that_has_stored_nothing_are_no_obstacle(tmp_path: Path) -> None:
    for name in ("files/content", "files/parts", "runs"):
        (tmp_path / name).mkdir(parents=True)
    assert count(tmp_path / "server.db") == 0


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '{"store": 1}', "[" * 100_000),
        '{"store": "a", "checkpoints": "1", "requests": 2, "events": 3, "keys": 4}',
        '{"store": "a", "checkpoints": 1, "requests": null, "events": 3, "keys": 4}',
    ],
)
def test_an_identity_that_cannot_be_read_is_written_anew(server: Path, content: str) -> None:
    identity = read_identity(server)
    identity_file(server).write_text(content)
    assert count(server) == REQUESTS
    assert read_identity(server) == replace(identity, file_checkpoints=0)


def test_a_checkpoint_brings_everything_into_the_file(server: Path, tmp_path: Path) -> None:
    with closing(SqliteDatabase(server)) as database:
        database.checkpoint()
        assert database.log_bytes < 3 * 4152, "the row that every log holds, no more"
        shutil.copy(server, tmp_path / "alone.db")
    with closing(sqlite3.connect(tmp_path / "alone.db")) as plain:
        assert plain.execute("SELECT count(*) FROM requests").fetchone() == (REQUESTS,)


def test_a_checkpoint_does_not_wait_long_for_a_reader(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT_WAIT", 50)
    with closing(SqliteDatabase(server)) as database, closing(sqlite3.connect(server)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchone()
        Keys(database).add("more")
        database.checkpoint()
        assert len(Store(database).requests()) == REQUESTS


def test_damage_is_found_when_all_is_checked(server: Path) -> None:
    with closing(SqliteDatabase(server)) as database:
        database.checkpoint()
    with closing(sqlite3.connect(server)) as plain:
        ((page,),) = plain.execute("SELECT rootpage FROM sqlite_master WHERE name = 'bodies'")
    with server.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    SqliteDatabase(server).close()
    with pytest.raises(StoreError, match=r"it is damaged \(.*Page \d+.*\)\. Restore a backup"):
        SqliteDatabase(server, thorough=True)
