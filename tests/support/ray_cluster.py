"""A Ray cluster whose nodes are processes of this machine, and a server's queue and workers that use it."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import contextmanager
from functools import partial

import psutil
import pytest

from sonolora.core.object_store import ObjectStore
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.remote import RemoteFiles
from sonolora.server.files.storage import Storage
from sonolora.server.health import Health
from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.placing.remote_placer import RemotePlacer
from sonolora.server.settings import ServerSettings

LIMIT = 400  # seconds for anything to happen, on a busy machine
STEPS = 100


@contextmanager
def running_cluster():
    """A head without CPUs; nodes are added by the test."""
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        # How soon the head gives up a node that does not answer.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster  # now: Ray reads its token once

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            yield made
        finally:
            made.shutdown()


class Server:
    """A store and a storage, and the workers on a cluster."""

    def __init__(self, folder, address, **settings):
        folder.mkdir()
        settings = {"placer": "ray", "ray_address": address, "checkpoint_every": 10, "attempts": 3, **settings}
        self.settings = ServerSettings(folder, **settings)
        self.database = SqliteDatabase(self.settings.database_address)
        self.store = Store(self.database)
        remote = None if self.settings.files is None else RemoteFiles(ObjectStore(self.settings.files))
        self.storage = Storage(folder / "files", self.database, 1 << 20, remote)
        placer = partial(RemotePlacer, ("ray", address))
        self.workers = Workers(
            self.settings,
            self.store,
            self.storage,
            Retrying(Health()),
            lambda id: None,  # noqa: ARG005
            placer,
        )

    async def upload(self, path):
        async def chunks():
            yield path.read_bytes()

        file = await self.storage.receive(self.storage.new("clips.zip", "application/zip", key_id="k"), chunks())
        return f"http://127.0.0.1:8000{file.address}"

    def add(self, url):
        body = {"training_data_url": url, "rank": 8, "number_of_steps": STEPS, "audio_duration_seconds": 0.5}
        return self.store.add_request(NewRequest(endpoint="t2a", mode="t2a", body=body, key_id="k")).id

    async def until(self, holds):
        end = time.monotonic() + LIMIT
        while not (found := holds()):
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        return found

    async def at_step(self, id, step):
        await self.until(
            lambda: (one := self.store.request(id).progress).get("steps") == STEPS and one.get("step", 0) >= step
        )

    async def done(self, id):
        await self.until(lambda: self.store.request(id).state == State.DONE)
        assert self.store.request(id).result.status == 200, self.store.request(id).result
        return self.lora(id)

    def lora(self, id):
        url = self.store.request(id).result.body["lora_file"]["url"]
        return self.storage.local(f"http://127.0.0.1:8000{url}").read_bytes()

    def kinds(self, id):
        return [event.kind for event in self.store.events(id)]


def of_node(node):
    """The raylet of a node of the test, with all its descendants: what a machine that hangs would have."""
    raylet = node.all_processes["raylet"][0].process
    return [psutil.Process(raylet.pid), *psutil.Process(raylet.pid).children(recursive=True)]
