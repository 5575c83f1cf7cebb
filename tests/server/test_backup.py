"""A copy of a running server, and a server made from it."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import SonoloraError
from sonolora.server import backup as module
from sonolora.server.backup import backup, restore
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.datasets.dataset import Datasets
from sonolora.server.files.storage import Storage
from sonolora.server.folder_lock import single_instance
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest, Result, State
from sonolora.server.jobs.store import Store


class Server:
    """What a server has in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = SqliteDatabase(folder / "server.db")
        self.store, self.keys = Store(self.database), Keys(self.database)
        self.storage = Storage(folder / "files", self.database, 1 << 20)

    def add(self, **more):
        return self.store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={"rank": 8}, **more)).id

    def upload(self, content, name="clips.zip"):
        async def chunks():
            yield content

        return asyncio.run(self.storage.receive(self.storage.new(name, "application/zip", key_id="k"), chunks()))


@pytest.fixture
def server(tmp_path):
    """With a request of each state, a key, an upload and an output; another upload is not complete."""
    made = Server(tmp_path / "server")
    done, running, _ = (made.add() for _ in range(3))
    made.store.claim()
    made.store.finish(done, Result(status=200, body={}, billable_units=100))
    assert made.store.claim().id == running
    made.secret = made.keys.add("laptop")[1]
    (tmp_path / "out").write_bytes(b"a LoRA")
    made.output = made.storage.adopt(tmp_path / "out", "lora.safetensors", "x/y", request_id=done, expires=None)
    made.uploaded = made.upload(b"clips" * 1000, "ключ 1.zip")
    made.storage.begin(made.storage.new("later.zip", ""))
    (made.folder / "server.toml").write_text("port = 1\n")
    (made.folder / "files" / "secret").write_bytes(b"s" * 32)
    (made.folder / "tls").mkdir()
    (made.folder / "tls" / "ca.pem").write_text("an authority")
    (made.folder / "runs" / running).mkdir(parents=True)
    with single_instance(made.folder):
        yield made
    made.database.close()


@pytest.fixture
def restored():
    servers = []

    def make(folder):
        servers.append(Server(folder))
        return servers[-1]

    yield make
    for one in servers:
        one.database.close()


def test_what_is_copied_from_a_running_server_is_there_again(server, restored, tmp_path):
    summary = backup(server.folder, tmp_path / "copy")
    assert (summary.requests, summary.files, summary.bytes, summary.missing) == (3, 2, 5006, ())
    server.add()
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "server.db", "files", "server.toml", "tls", "backup.json",
    }  # fmt: skip
    shutil.rmtree(server.folder)

    assert restore(tmp_path / "copy", tmp_path / "new") == summary
    new = restored(tmp_path / "new")
    states = [request.state for request in new.store.requests()]
    assert sorted(states) == [State.DONE, State.QUEUED, State.RUNNING]
    assert new.store.billed() == [("t2a", 1, 100)]
    assert new.keys.check(server.secret).name == "laptop"
    for file, content in ((server.output, b"a LoRA"), (server.uploaded, b"clips" * 1000)):
        found = new.storage.find(file.id)
        assert found.path.read_bytes() == content
        assert (found.name, found.sha256, found.mtime_ns) == (file.name, file.sha256, file.mtime_ns)
    assert new.storage.clean(time.time()) == 0
    for name, content in (("server.toml", "port = 1\n"), ("files/secret", "s" * 32), ("tls/ca.pem", "an authority")):
        assert (new.folder / name).read_text() == content
    for path in (tmp_path / "copy", new.folder / "server.db", new.folder / "files"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (new.folder / "server.identity.json").exists()
    assert not list(tmp_path.glob("**/.*")), "nothing half done is left"


def test_a_server_that_is_written_to_meanwhile(server, restored, tmp_path):
    """Everything whose call returned before the copy began is in it; what it holds belongs together."""
    over, files = threading.Event(), []

    def work():
        number = 0
        while not over.is_set():
            server.add()
            files.append(server.upload(bytes([number % 256]) * 2000, f"{number}.zip"))
            if number > 3:
                server.storage._discard(files[number - 3].id)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while len(files) < 10:
            time.sleep(0.01)
        before = len(server.store.requests(limit=10_000))
        for number in range(3):
            summary = backup(server.folder, tmp_path / f"copy{number}")
            assert summary.missing == ()
    finally:
        over.set()
        thread.join()
    assert restore(tmp_path / "copy0", tmp_path / "new").requests >= before
    new = restored(tmp_path / "new")
    for id in new.storage._records.all():
        file = new.storage.begun(id)
        assert not file.complete or new.storage.find(id)


@pytest.mark.parametrize("fault", ["missing", "changed", "unreadable"])
def test_content_that_the_server_has_lost_is_named(server, restored, tmp_path, fault):
    path = server.uploaded.path
    if fault == "changed":
        path.write_bytes(b"other")
    else:
        path.unlink()
        if fault == "unreadable":
            path.mkdir()  # reading it fails, for whoever runs the tests
    name = f"files/content/{server.uploaded.id}/{server.uploaded.name}"
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "copy"), "--folder", str(server.folder)])
    assert isinstance(done.exception, SonoloraError)
    assert "complete except for 1 files" in str(done.exception) and name in str(done.exception)
    assert restore(tmp_path / "copy", tmp_path / "new").missing == (name,)
    new = restored(tmp_path / "new")
    assert new.storage.find(server.output.id) and new.storage.find(server.uploaded.id) is None


@pytest.mark.parametrize("fault", ["file missing", "file changed", "database damaged", "no manifest", "bad manifest"])
def test_a_copy_that_is_damaged_is_refused(server, tmp_path, fault):
    copy, new = tmp_path / "copy", tmp_path / "new"
    backup(server.folder, copy)
    content = copy / "files" / "content" / server.uploaded.id / server.uploaded.name
    match fault:
        case "file missing":
            content.unlink()
        case "file changed":
            content.write_bytes(content.read_bytes()[:-1] + b"?")
        case "database damaged":
            with (copy / "server.db").open("r+b") as file:
                file.seek(4096)
                file.write(b"\xa5" * 40_960)
        case "no manifest":
            (copy / "backup.json").unlink()
        case "bad manifest":
            (copy / "backup.json").write_text("[]")
    with pytest.raises(SonoloraError, match=r"missing or damaged|is damaged|is no backup") as error:
        restore(copy, new)
    assert ".restoring-" not in str(error.value)
    assert [path.name for path in new.glob("*")] in ([], ["server.lock"])


def test_a_folder_with_a_server_is_not_restored_into(server, tmp_path):
    backup(server.folder, tmp_path / "copy")
    with pytest.raises(SonoloraError, match="another server is running"):
        restore(tmp_path / "copy", server.folder)
    (tmp_path / "other" / "files").mkdir(parents=True)
    with pytest.raises(SonoloraError, match="holds a server already: move files"):
        restore(tmp_path / "copy", tmp_path / "other")


def test_settings_that_are_there_stay(server, tmp_path):
    backup(server.folder, tmp_path / "copy")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "server.toml").write_text("port = 2\n")
    restore(tmp_path / "copy", tmp_path / "new")
    assert (tmp_path / "new" / "server.toml").read_text() == "port = 2\n"


def test_what_cannot_be_copied_leaves_nothing(server, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(SonoloraError, match="exists already"):
        backup(server.folder, tmp_path / "there")
    with pytest.raises(SonoloraError, match="there is no server in"):
        backup(tmp_path, tmp_path / "copy")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(SonoloraError, match="GB free"):
        backup(server.folder, tmp_path / "copy")
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "sync", full)
    with pytest.raises(SonoloraError, match="the disk is full"):
        backup(server.folder, tmp_path / "copy")
    assert not list(tmp_path.glob("copy*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            'database = "postgresql+psycopg://db/queue"',
            "the queue is in PostgreSQL, which makes its own backups: pg_dump",
        ),
        ('files = "s3://studio/files"', "files are in an object store"),
    ],
)
def test_what_is_elsewhere_is_not_copied(server, tmp_path, setting, reason):
    (server.folder / "server.toml").write_text(setting)
    with pytest.raises(SonoloraError, match=reason):
        backup(server.folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_commands(server, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, done.exception
        return done.output

    said = run("backup", tmp_path / "copy", "--folder", server.folder)
    assert said.splitlines() == ["3 requests, 2 files", f"{tmp_path / 'copy'}: 3 requests, 2 files, 0.0 MB"]
    said = run("restore", tmp_path / "copy", "--folder", tmp_path / "new")
    assert said.splitlines()[-1] == f"start it with: sonolora serve --folder {tmp_path / 'new'}"
    assert run("keys", "list", "--folder", tmp_path / "new").split()[-1] == "laptop"
    with closing(SqliteDatabase(tmp_path / "new" / "server.db", thorough=True)) as database:
        assert len(Store(database).requests()) == 3


def test_datasets_of_the_page_are_in_it_without_what_is_being_uploaded(server, tmp_path):
    datasets = Datasets(server.folder / "datasets")
    made = datasets.create("Rain", "t2a")
    (tmp_path / "rain.wav").write_bytes(b"sound")
    made = datasets.set_captions(datasets.put(made, "rain.wav", tmp_path / "rain.wav"), {"rain": "soft rain"})
    (made.folder / "incoming" / "half").write_bytes(b"half a file")
    backup(server.folder, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "restored")
    found = Datasets(tmp_path / "restored" / "datasets").find(made.id)
    assert found.info == made.info and found.names() == ["rain.txt", "rain.wav"]
    assert not list((found.folder / "incoming").iterdir())
