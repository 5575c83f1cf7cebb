"""Runs on nodes that share nothing but an object store: which attempt works, what it leaves, what others see of it."""

from __future__ import annotations

import asyncio
import io
import os
import time
from contextlib import suppress

import pytest
from run_support import STEPS, short_runs

from sonolora.core.devices import resolve_device
from sonolora.core.object_store import ObjectStore, ObjectStoreError
from sonolora.ltx.weights.base import find_base
from sonolora.runs.artifacts import LORA, METRICS, RECORD
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.run_copy import RunCopy
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.remote import RemoteFiles
from sonolora.server.files.storage import Storage
from sonolora.server.health import Health
from sonolora.server.jobs import worker
from sonolora.server.jobs.missing_folders import keep_folders
from sonolora.server.jobs.records import NewRequest, Result
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.placing.node_folder import KEEP_SECONDS, make_node_run_folder
from sonolora.server.settings import ServerSettings

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'sonolora[s3]'")


@pytest.fixture(autouse=True, scope="module")
def _short_runs():
    with short_runs():
        yield


@pytest.fixture
def address(tmp_path, clips):
    """A store that has the data."""
    address = f"file://{tmp_path}/objects"
    ObjectStore(address).put("content/1/clips.zip", clips / "clips.zip")
    return address


class Told(worker.Events):
    """Keeps what is sent; as the commands of the server it stops a run at a step."""

    def __init__(self, stop_at=None):
        super().__init__(io.StringIO())
        self.sent, self.stop_at = [], stop_at

    def send(self, event, **values):
        self.sent.append((event, values))

    def stops(self, job):  # noqa: ARG002
        steps = [values["step"] for event, values in self.sent if event == "metrics"]
        return self.stop_at is not None and max(steps, default=0) >= self.stop_at


@pytest.fixture
def node(tmp_path, monkeypatch, shallow_base, address):
    """Carries out an attempt in the folder of a node; returns what the server is sent."""
    desk = worker.Desk(resolve_device("cpu"))
    desk.networks = Networks(find_base(str(shallow_base)), desk.device)

    def carry_out(name, attempt, stop_at=None, **changed):
        monkeypatch.setenv("SONOLORA_NODE_FOLDER", str(tmp_path / name))
        url = "http://server/files/1/clips.zip"
        body = {"training_data_url": url, "rank": 8, "number_of_steps": STEPS, "audio_duration_seconds": 0.5}
        told = Told(stop_at)
        job = {
            "id": "run",
            "mode": "t2a",
            "body": body,
            "base": str(shallow_base),
            "copies": {"address": address, "attempt": attempt},
            "sources": {"local": False, "private": False, "known": {url: {"object": "content/1/clips.zip"}}},
            "settings": {"checkpoint_every": 4},
            **changed,
        }
        assert worker.work(desk, job, told, told)
        return told.sent

    return carry_out


def test_a_run_moves_to_another_node(node, tmp_path, address):
    server, copy = tmp_path / "server", RunCopy(ObjectStore(address), "run", 2)
    assert node("a", 1, stop_at=6)[-1][0] == "stopped"
    copy.collect(server)
    assert (server / METRICS).is_file() and not (server / LORA).exists()
    sent = node("b", 2)
    assert ("begun", {"resumed": True}) in sent and sent[-1] == ("done", {})
    assert next(values["step"] for event, values in sent if event == "metrics" and "loss" in values["values"]) > 4
    copy.collect(server, own=True)
    assert node("c", 1, id="undisturbed")[-1] == ("done", {})
    RunCopy(ObjectStore(address), "undisturbed", 1).collect(tmp_path / "undisturbed", own=True)
    assert (server / LORA).read_bytes() == (tmp_path / "undisturbed" / LORA).read_bytes()
    assert not (server / "checkpoints").exists(), "states are for those that continue the run"
    assert not list((tmp_path / "b" / "runs").iterdir()), "a node keeps nothing of a run that is done"
    # The first node comes back, when all is over.
    (warning, words), (ending, _) = node("a", 1)
    assert (warning, ending) == ("warning", "stopped") and "belongs to another process" in words["text"]


def test_generated_sounds_and_the_lora_go_through_the_store(node, tmp_path, address):
    lora, url = "content/2/lora.safetensors", "http://server/files/2/lora.safetensors"
    assert node("a", 1)[-1] == ("done", {})
    RunCopy(ObjectStore(address), "run", 1).collect(tmp_path / "server", own=True)
    ObjectStore(address).put(lora, tmp_path / "server" / LORA)
    job = {
        "id": "sounds",
        "kind": "generate",
        "loras": [{"path": url}],
        "passes": [{"mode": "t2a", "body": {"audio_duration_seconds": 0.5}, "names": {}}],
        "samples": [{"prompt": "a tone", "scale": 1.0, "seed": seed} for seed in (1, 2)],
        "format": "wav",
        "sources": {"local": False, "private": False, "known": {url: {"object": lora}}},
        "settings": {"steps": 2},
    }
    sent = node("b", 1, **job)
    assert sent[-1] == ("done", {}), sent[-1]
    RunCopy(ObjectStore(address), "sounds", 1).collect(tmp_path / "sounds", own=True)
    assert {f"sample-{number:03d}.wav" for number in (1, 2)} <= {path.name for path in (tmp_path / "sounds").iterdir()}


def test_what_could_not_be_copied_is_not_done(node, monkeypatch):
    real = ObjectStore.put

    def put(self, name, path, attributes=None):
        if name.endswith(LORA):
            raise ObjectStoreError("it", "it is away", "")
        real(self, name, path, attributes)

    monkeypatch.setattr(ObjectStore, "put", put)
    assert [event for event, _ in node("a", 1)[-2:]] == ["warning", "stopped"]
    monkeypatch.undo()
    assert node("a", 2)[-1] == ("done", {})


def test_folders_that_nobody_uses_are_removed_after_days(tmp_path, monkeypatch):
    monkeypatch.setenv("SONOLORA_NODE_FOLDER", str(tmp_path))
    old, new = (make_node_run_folder(name) for name in ("old", "new"))
    long_ago = time.time() - KEEP_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    make_node_run_folder("another")
    assert not old.exists() and new.exists()


def test_a_server_that_takes_over_has_what_finished_runs_have_made(tmp_path, address):
    settings = ServerSettings(tmp_path / "server", files=address)
    settings.run_folder("").mkdir(parents=True)
    database = SqliteDatabase(settings.database_address)
    store = Store(database)
    storage = Storage(tmp_path / "files", database, 1 << 20, RemoteFiles(ObjectStore(address)))
    asked = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={})
    done, lost, running = (store.add_request(asked).id for _ in range(3))
    for number, id in enumerate((done, lost, running)):
        assert store.claim().id == id
        folder = tmp_path / str(number)
        (folder / "checkpoints").mkdir(parents=True)
        for name in (RECORD, METRICS, "checkpoints/step-000004.safetensors"):
            (folder / name).write_text(name)
        if id != lost:
            RunCopy(ObjectStore(address), id, 1).put(folder)
        if id != running:
            store.finish(id, Result(status=200, body={}))

    async def look():
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await keep_folders(settings, store, storage, Retrying(Health()))

    asyncio.run(look())
    runs = settings.run_folder("")
    assert sorted(path.relative_to(runs / done).as_posix() for path in (runs / done).rglob("*")) == [METRICS, RECORD]
    assert [path.name for path in runs.iterdir()] == [done], "one that runs is fetched by those who carry it out"
    database.close()
