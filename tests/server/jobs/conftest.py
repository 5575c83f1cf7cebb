"""Workers that play a part, and a store and a storage for them."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest

from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.storage import Storage
from sonolora.server.health import Health
from sonolora.server.jobs import retrying
from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.placing import local_placer
from sonolora.server.placing import worker_process as process
from sonolora.server.placing.local_placer import LocalPlacer
from sonolora.server.settings import ServerSettings

LIMIT = 30  # seconds for anything to happen, on a busy machine

# Speaks the worker's side. What to do with a job is the last part of its address.
PLAYER = """
import json, os, signal, sys, time
from pathlib import Path

def tell(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)

def stop_order():
    line = sys.stdin.readline()
    return json.loads(line)["stop"] if line else None

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

if sys.argv[-1] == "bad":
    sys.exit(9)
tell("ready")
for line in iter(sys.stdin.readline, ""):
    job = json.loads(line)
    folder = Path(job["folder"])
    resumed = (folder / "run.json").exists()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(line)
    (folder / "goes").open("a").write(f"{os.getpid()}\\n")
    part = job["body"]["training_data_url"].rsplit("/", 1)[-1]
    tell("begun", resumed=resumed)
    (folder / ".data-x").mkdir(exist_ok=True)
    if part == "held":
        wait_for(folder / "go on")
    if part in ("done", "held") or (part in ("once", "full") and resumed):
        tell("phase", name="training", total=100)
        tell("metrics", step=100, values={"loss": 1.25, "learning_rate": 0.1, "steps_per_second": 4.0})
        tell("progress", step=100, total=100, note="loss 1.250")
        tell("metrics", step=100, values={"train_eval_loss": 2.5})
        tell("message", text="trained")
        tell("warning", text="odd")
        for name in ("lora.safetensors", "config.json", "preview.wav"):
            (folder / name).write_text(f"{name} of {job['id']}")
        (folder / ".data-x").rmdir()
        tell("done")
    elif part == "made":
        (folder / "sample-001.wav").write_bytes(b"RIFF")
        (folder / ".data-x").rmdir()
        tell("sample", number=1)
        tell("done")
    elif part == "full":
        wait_for(folder / "go on")
        (folder / "run.json").write_text("{}")
        message = "lora.safetensors could not be written: the disk is full"
        tell("failed", message=message, traceback=None, disk_full=True)
    elif part in ("kill", "once"):
        (folder / "run.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)
    elif part == "exit":
        sys.exit(3)
    elif part == "bad":
        tell("input_error", detail=[{"loc": ["body", "training_data_url"], "msg": "no sound", "type": "value_error"}])
    elif part == "explained":
        tell("failed", message="the disk is full", traceback=None)
    elif part == "harmed":
        tell("failed", message=None, traceback="Traceback: SECRET")
        sys.exit(1)
    elif part == "wait":
        tell("phase", name="training", total=400)
        tell("metrics", step=100, values={"loss": 1.0, "learning_rate": 0.1, "steps_per_second": 2.0})
        tell("progress", step=100, total=400, note="")
        assert stop_order() in (job["id"], None)
        (folder / "run.json").write_text("{}")
        tell("stopped", step=100)
    elif part == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    elif part == "told to end":
        signal.signal(signal.SIGTERM, lambda *_: None)
        tell("stopped", step=5)
        sys.exit(0)
    tell("ready")
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    (tmp_path / "player.py").write_text(PLAYER)
    monkeypatch.setattr(process, "_COMMAND", (sys.executable, str(tmp_path / "player.py")))
    monkeypatch.setattr(local_placer, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.02)
    made = Served(ServerSettings(tmp_path / "server", attempts=2))
    yield made
    made.database.close()


class Served:
    """A store, a storage and the workers on them."""

    def __init__(self, settings):
        settings.folder.mkdir(exist_ok=True)
        self.settings = settings
        self.database = SqliteDatabase(settings.database_address)
        self.store = Store(self.database)
        self.storage = Storage(settings.folder / "files", self.database, 1 << 30)
        self.health = Health()
        self.changed = []
        self.placer = None  # by default on the devices of the settings
        self.memory = None

    def add(self, part, **values):
        body = {"training_data_url": f"https://example.com/{part}", "number_of_steps": 150}
        return self.store.add_request(
            NewRequest(**{"endpoint": "t2a", "mode": "t2a", "body": body, "key_id": "k"} | values)
        ).id

    def folder(self, id):
        return self.settings.folder / "runs" / id

    def goes(self, id):
        """The processes that had it in hand."""
        path = self.folder(id) / "goes"
        return path.read_text().split() if path.exists() else []

    @asynccontextmanager
    async def running(self):
        placer = self.placer or partial(LocalPlacer, self.settings.base, self.settings.devices)
        self.workers = Workers(
            self.settings, self.store, self.storage, Retrying(self.health), self.changed.append, placer, self.memory
        )
        task = asyncio.create_task(self.workers.run())
        try:
            yield task
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def until(self, holds, seconds=LIMIT):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)

    async def done(self, id):
        await self.until(lambda: self.store.request(id).state == State.DONE)
        return self.store.request(id)

    async def in_hand(self, id):
        """When the worker has told something of it."""
        await self.until(lambda: self.store.request(id).progress or self.goes(id))

    def kinds(self, id):
        return [event.kind for event in self.store.events(id)]

    def lines(self, id):
        return [line.message for line in self.store.logs(id)]
