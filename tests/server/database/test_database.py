from __future__ import annotations

import shutil
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from sonolora.core.errors import SonoloraError
from sonolora.server.database import faults, schema
from sonolora.server.database.database import Database
from sonolora.server.database.faults import StoreError
from sonolora.server.database.identity import identity_file, read_identity
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.database.tables import files, keys, logs, store
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest, Role, State
from sonolora.server.jobs.store import Store

ADDED = ("kind", "options", "paused", "place", "starts", "gb")  # columns of requests, since version 1
KEY = {"id": "a", "name": "laptop", "sha256": "0", "created": 1.0}


def make(path: Path, *, rows: int = 1) -> None:
    with closing(SqliteDatabase(path)) as database:
        database.write(insert(keys), [KEY | {"id": str(row), "name": "n" * 2000} for row in range(rows)])


def names(database: Database) -> list[str]:
    return [row.name for row in database.read(select(keys.c.name))]


def test_settings_of_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "server.db"
    database = SqliteDatabase(path)
    for engine in (database._writer, database._reader):
        with engine.connect() as connection:
            for name, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
                assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        database.write(insert(logs), {"request_id": "?", "time": 1.0, "level": "INFO", "message": "m"})
    with database._reader.connect() as connection, pytest.raises(StoreError, match="not writable"):
        connection.execute(insert(keys), KEY)
    for file in path.parent.glob("server.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    database.close()


def test_a_transaction_that_fails_leaves_nothing_and_readers_see_what_is_committed(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        with pytest.raises(IntegrityError, match="UNIQUE"), database.transaction() as transaction:
            transaction.execute(insert(keys), [KEY, KEY])
        with database.transaction() as transaction:
            transaction.execute(insert(keys), KEY)
            assert names(database) == []
        assert names(database) == ["laptop"]


@pytest.mark.parametrize("attempt", range(3))
def test_many_may_open_a_new_file_at_once(tmp_path: Path, attempt: int) -> None:
    with ThreadPoolExecutor(8) as threads:
        databases = list(threads.map(lambda _: SqliteDatabase(tmp_path / f"{attempt}.db"), range(8)))
    databases[0].write(insert(keys), KEY)
    for database in databases:
        assert names(database) == ["laptop"]
        database.close()


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    make(path)
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"server\.db: it was written by a newer Sonolora \(.* 99, .* 6\)\. Update"):
        SqliteDatabase(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE moz_places (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        SqliteDatabase(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_is_brought_up_to_date_or_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make(path)
    shutil.copytree(schema.SCRIPTS, tmp_path / "scripts")
    monkeypatch.setattr(schema, "SCRIPTS", tmp_path / "scripts")

    def script(version: int, *statements: str) -> None:
        monkeypatch.setattr(schema, "VERSION", version)
        lines = [
            "from alembic import op",
            f'revision, down_revision = "{version:04}", "{version - 1:04}"',
            "def upgrade():",
            *[f"    op.execute({statement!r})" for statement in statements],
        ]
        (tmp_path / "scripts" / "versions" / f"v{version}.py").write_text("\n".join(lines))

    own = schema.VERSION
    added = "ALTER TABLE keys ADD COLUMN colour TEXT DEFAULT 'red'"
    script(own + 1, added, "UPDATE nowhere SET a = 1")
    with pytest.raises(OperationalError, match="no such table: nowhere"):
        SqliteDatabase(path)

    def columns() -> list[str]:
        with closing(sqlite3.connect(path)) as plain:
            return [row[1] for row in plain.execute("PRAGMA table_info(keys)")]

    assert "colour" not in columns()
    renamed = "ALTER TABLE keys RENAME COLUMN colour TO color"
    script(own + 1, added)
    script(own + 2, renamed)
    for _ in range(2):  # the second time there is nothing to do
        with closing(SqliteDatabase(path)) as database:
            assert names(database) == ["n" * 2000]
    assert "color" in columns()
    monkeypatch.setattr(schema, "VERSION", own)
    with pytest.raises(StoreError, match="newer"):
        SqliteDatabase(path)


def test_a_database_of_version_1_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    make(path)
    with closing(sqlite3.connect(path)) as plain:
        plain.executescript(
            "DROP INDEX queue; DROP INDEX queue_by_key; DROP INDEX running; DROP INDEX requests_by_end;"
            "DROP TABLE drains; DROP TABLE alembic_version;"
            + "".join(f"ALTER TABLE requests DROP COLUMN {name};" for name in ADDED)
            + "CREATE INDEX queue ON requests (priority, number) WHERE state = 'queued';"
            "CREATE INDEX queue_by_key ON requests (key_id) WHERE state = 'queued';"
            "ALTER TABLE keys DROP COLUMN owner; ALTER TABLE keys DROP COLUMN role;"
            "DROP TABLE store; ALTER TABLE files DROP COLUMN mtime_ns; PRAGMA user_version = 1"
        )
    identity_file(path).unlink()
    with closing(SqliteDatabase(path)) as database:
        assert names(database) == ["n" * 2000]
        ((id,),) = database.read(select(store.c.id))
        database.read(select(files))
        Store(database).queue()
    identity = read_identity(path)
    assert identity and (identity.store, identity.keys) == (id, 1)


def test_a_database_of_version_3_is_migrated_and_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    """That of the last version before there were scripts: one request is done, one runs, one is paused in the queue."""
    path = tmp_path / "server.db"
    with closing(sqlite3.connect(path)) as plain:
        plain.executescript((Path(__file__).parent / "fixtures" / "version-3.sql").read_text())
        plain.execute(
            "INSERT INTO files SELECT 'out', name, content_type, size, sha256, mtime_ns, created, expires, "
            "(SELECT id FROM requests WHERE state = 'done'), NULL, 1 FROM files"
        )
        plain.commit()
    make(tmp_path / "new.db")
    with closing(SqliteDatabase(path)) as database:
        store = Store(database)
        states = {one.state: one for one in store.requests()}
        done = states[State.DONE]
        assert done.result and done.result.billable_units == 100 and done.starts == 0
        assert store.metrics(done.id) == [(3, {"loss": 0.5})] and store.deliveries(done.id)
        assert states[State.RUNNING].options == {"name": "rain"} and states[State.QUEUED].paused
        store.requeue(states[State.RUNNING].id, crashed=False)
        assert (again := store.claim()) and (again.id, again.starts) == (states[State.RUNNING].id, 1)
        (key,) = Keys(database).all()
        assert (key.name, key.owner, key.role) == ("laptop", "laptop", Role.OPERATOR)
        assert database.read(select(files.c.key_id).where(files.c.id == "out")) == [(done.key_id,)]
    schemas = []
    for file in (path, tmp_path / "new.db"):
        with closing(sqlite3.connect(file)) as plain:
            tables = [name for (name,) in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            schemas.append(
                (
                    {name: sorted(row[1:4] for row in plain.execute(f"PRAGMA table_info({name})")) for name in tables},
                    {row[0] for row in plain.execute("SELECT name FROM sqlite_master WHERE type = 'index'")},
                    plain.execute("PRAGMA user_version").fetchone(),
                    plain.execute("SELECT version_num FROM alembic_version").fetchall(),
                )
            )
    assert schemas[0] == schemas[1]


def test_files_that_are_no_database(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("not a database " * 100)
    with pytest.raises(StoreError, match=r"text\.db: it is not a database\. Restore a backup"):
        SqliteDatabase(text)
    assert text.read_text().startswith("not a database")
    with pytest.raises(StoreError, match="is not a file"):
        SqliteDatabase(tmp_path)
    with pytest.raises(StoreError, match="cannot be used: Not a directory"):
        SqliteDatabase(text / "server.db")
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

    with pytest.raises(StoreError, match=r"damaged\. Restore a backup"), closing(SqliteDatabase(path)) as database:
        names(database)


def test_a_damaged_page_is_reported_by_both_ways_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    make(path, rows=400)
    database = SqliteDatabase(path)
    with closing(sqlite3.connect(path)) as plain:
        roots = dict(plain.execute("SELECT name, rootpage FROM sqlite_master"))
    with path.open("r+b") as file:
        for root in (roots["keys"], roots["sqlite_autoindex_keys_1"]):
            file.seek((root - 1) * 4096)
            file.write(b"\xa5" * 4096)
    for read in (lambda: Keys(database).check("7:0"), lambda: names(database)):
        with pytest.raises(StoreError, match="damaged") as caught:
            read()
        assert caught.value.public.endswith("it is damaged"), "without a path: clients may see it"
    database.close()


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "server.db")
    store = Store(database)

    def pages(most: int) -> None:
        with database._writer.connect() as connection:  # the only one that writes
            connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")

    new = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={"prompt": "p" * 100_000})
    pages(55)
    first = store.add_request(new)
    with pytest.raises(StoreError, match="disk is full"):
        store.add_request(new)
    assert store.requests() == [first]
    pages(1000)
    second = store.add_request(new)
    assert store.requests() == [second, first]
    database.close()


def test_a_writer_waits_for_another_process_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        database = SqliteDatabase(path)
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as thread:
            adding = thread.submit(Keys(database).add, "patient")
            with pytest.raises(TimeoutError):
                adding.result(0.2)
            assert len(names(database)) == 1  # reading goes on
            other.execute("COMMIT")
            adding.result(10)
        database.close()
        monkeypatch.setattr(faults, "BUSY_SECONDS", 0.05)
        database = SqliteDatabase(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process has kept it locked"):
            Keys(database).add("impatient")
        other.execute("ROLLBACK")
        Keys(database).add("later")
        assert names(database)[1:] == ["patient", "later"]
        database.close()
