from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from sonolora.core.errors import SonoloraError
from sonolora.server.database import database
from sonolora.server.database.database import StoreError, open_database
from sonolora.server.database.tables import keys, logs
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.store import Store

KEY = {"id": "a", "name": "laptop", "sha256": "0", "created": 1.0}


def make(path: Path, *, rows: int = 1) -> None:
    writer, reader = open_database(path)
    with writer.begin() as transaction:
        transaction.execute(insert(keys), [KEY | {"id": str(row), "name": "n" * 2000} for row in range(rows)])
    writer.dispose()
    reader.dispose()


def test_settings_of_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "server.db"
    engines = open_database(path)
    for engine in engines:
        with engine.connect() as connection:
            for name, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
                assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
    writer, reader = engines
    with writer.begin() as transaction, pytest.raises(IntegrityError, match="FOREIGN KEY"):
        transaction.execute(insert(logs), {"request_id": "?", "time": 1.0, "level": "INFO", "message": "m"})
    with reader.connect() as connection, pytest.raises(StoreError, match="may not be written"):
        connection.execute(insert(keys), KEY)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for engine in engines:
        engine.dispose()


def test_a_transaction_that_fails_leaves_nothing_and_readers_see_what_is_committed(tmp_path: Path) -> None:
    writer, reader = open_database(tmp_path / "server.db")

    def names() -> list[str]:
        with reader.connect() as connection:
            return list(connection.scalars(select(keys.c.name)))

    with pytest.raises(IntegrityError, match="UNIQUE"), writer.begin() as transaction:
        transaction.execute(insert(keys), [KEY, KEY])
    with writer.begin() as transaction:
        transaction.execute(insert(keys), KEY)
        assert names() == []
    assert names() == ["laptop"]
    writer.dispose()
    reader.dispose()


@pytest.mark.parametrize("attempt", range(3))
def test_many_may_open_a_new_file_at_once(tmp_path: Path, attempt: int) -> None:
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: Store(tmp_path / f"{attempt}.db"), range(8)))
    stores[0].add_key("laptop")
    for store in stores:
        assert len(store.keys()) == 1
        store.close()


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    make(path)
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"server\.db: it was written by a newer Sonolora \(.* 99, .* 1\)\. Update"):
        Store(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE moz_places (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_is_brought_up_to_date_or_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make(path)
    added = "ALTER TABLE keys ADD COLUMN colour TEXT DEFAULT 'red'"
    monkeypatch.setattr(database, "MIGRATIONS", ((added, "UPDATE nowhere SET a = 1"),))
    with pytest.raises(OperationalError, match="no such table: nowhere"):
        open_database(path)

    def columns() -> list[str]:
        with closing(sqlite3.connect(path)) as plain:
            return [row[1] for row in plain.execute("PRAGMA table_info(keys)")]

    assert "colour" not in columns()
    monkeypatch.setattr(database, "MIGRATIONS", ((added,), ("ALTER TABLE keys RENAME COLUMN colour TO color",)))
    for _ in range(2):  # the second time there is nothing to do
        store = Store(path)
        (key,) = store.keys()
        assert key.id == "0"
        store.close()
    assert "color" in columns()
    monkeypatch.setattr(database, "MIGRATIONS", ())
    with pytest.raises(StoreError, match="newer"):
        Store(path)


def test_files_that_are_no_database(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("not a database " * 100)
    with pytest.raises(StoreError, match=r"text\.db: it is not a database\. Move it away"):
        Store(text)
    assert text.read_text().startswith("not a database")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="cannot be made"):
        Store(text / "server.db")
    assert issubclass(StoreError, SonoloraError)


@pytest.mark.parametrize("damage", ["overwritten", "cut off"])
def test_a_damaged_file_says_so(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "server.db"
    make(path, rows=400)
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "cut off":
            file.truncate(size // 4)
        else:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))

    def use() -> None:
        store = Store(path)
        try:
            store.check_key("7:0")
            store.keys()
        finally:
            store.close()

    with pytest.raises(StoreError, match=r"damaged\. Put back a copy"):
        use()


def test_a_damaged_page_is_told_by_either_way_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    make(path, rows=400)
    store = Store(path)
    with closing(sqlite3.connect(path)) as plain:
        roots = dict(plain.execute("SELECT name, rootpage FROM sqlite_master"))
    with path.open("r+b") as file:
        for root in (roots["keys"], roots["sqlite_autoindex_keys_1"]):
            file.seek((root - 1) * 4096)
            file.write(b"\xa5" * 4096)
    for read in (lambda: store.check_key("7:0"), store.keys):
        with pytest.raises(StoreError, match="damaged"):
            read()
    store.close()


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    store = Store(tmp_path / "server.db")

    def pages(most: int) -> None:
        with store.engine.connect() as connection:  # the only one that writes
            connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")

    new = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={"prompt": "p" * 100_000})
    pages(50)
    first = store.add_request(new)
    with pytest.raises(StoreError, match="disk is full"):
        store.add_request(new)
    assert store.requests() == [first]
    pages(1000)
    second = store.add_request(new)
    assert store.requests() == [second, first]
    store.close()


def test_a_writer_waits_for_another_process_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        store = Store(path)
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as thread:
            adding = thread.submit(store.add_key, "patient")
            with pytest.raises(TimeoutError):
                adding.result(0.2)
            assert len(store.keys()) == 1  # reading goes on
            other.execute("COMMIT")
            adding.result(10)
        store.close()
        monkeypatch.setattr(database, "_PATIENCE", 0.05)
        store = Store(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process has kept it locked"):
            store.add_key("impatient")
        other.execute("ROLLBACK")
        store.add_key("later")
        listed = store.keys()
        assert [key.name for key in listed[1:]] == ["patient", "later"]
        store.close()
