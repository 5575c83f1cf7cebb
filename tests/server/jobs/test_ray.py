"""Runs on the nodes of a Ray cluster, which are processes of this machine, with real workers of the embedded base."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from functools import partial
from importlib.util import find_spec

import psutil
import pytest

from sonolora.core.errors import SonoloraError
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.storage import Storage
from sonolora.server.health import Health
from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.placing.ray_placer import check_ray
from sonolora.server.placing.remote_placer import RemotePlacer
from sonolora.server.settings import ServerSettings

LIMIT = 400  # seconds for anything to happen, on a busy machine
STEPS = 100


pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'sonolora[ray]'")


def test_a_cluster_without_a_token_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(SonoloraError, match="RAY_AUTH_MODE=token"):
        check_ray()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_ray()


@pytest.fixture
def cluster(monkeypatch):
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
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster  # now: Ray reads its token once

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


class Server:
    """A store and a storage, and the workers on a cluster."""

    def __init__(self, folder, address):
        folder.mkdir()
        self.settings = ServerSettings(folder, placer="ray", ray_address=address, checkpoint_every=10, attempts=3)
        self.database = SqliteDatabase(self.settings.database_address)
        self.store = Store(self.database)
        self.storage = Storage(folder / "files", self.database, 1 << 20)
        placer = partial(RemotePlacer, ("--base", "tiny", "ray", address))
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

        file = await self.storage.receive(self.storage.new("clips.zip", "application/zip"), chunks())
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


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops the processes of a node")
def test_a_run_moves_when_its_node_hangs_or_dies_and_the_lora_is_the_same(cluster, clips, tmp_path, capsys):
    """An undisturbed run; one whose node hangs, is given up, and wakes up again; one whose node is killed."""
    server = Server(tmp_path / "server", cluster.address)

    async def run():
        url = await server.upload(clips / "clips.zip")
        task = asyncio.create_task(server.workers.run())
        first = cluster.add_node(num_cpus=1)
        times = []
        try:
            ids = [server.add(url)]
            lora = await server.done(ids[0])

            ids.append(server.add(url))
            await server.at_step(ids[1], 20)
            second = cluster.add_node(num_cpus=1)
            stopped = of_node(first)
            for process in stopped:
                process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            await server.until(lambda: "resumed" in server.kinds(ids[1]))
            times.append(time.monotonic() - began)
            for process in stopped:
                process.send_signal(signal.SIGCONT)
            assert await server.done(ids[1]) == lora
            assert server.kinds(ids[1]) == ["started", "crashed", "resumed", "finished"]

            ids.append(server.add(url))
            await server.at_step(ids[2], 20)
            third = cluster.add_node(num_cpus=1)
            began = time.monotonic()
            for process in of_node(second):
                process.kill()
            await server.until(lambda: "resumed" in server.kinds(ids[2]))
            times.append(time.monotonic() - began)
            assert await server.done(ids[2]) == lora
            assert server.kinds(ids[2]) == ["started", "crashed", "resumed", "finished"]
            assert third
            return ids, times
        finally:
            task.cancel()
            await asyncio.wait({task})

    ids, times = asyncio.run(run())
    assert server.store.billed() == [("t2a", len(ids), STEPS * len(ids))]
    for id in ids:
        folder = server.settings.run_folder(id)
        assert [path.name for path in folder.parent.glob(f"{id}.*")] == [folder.readlink().name]
        steps = [step for step, values in server.store.metrics(id) if "loss" in values]
        assert steps == sorted(set(steps)) and steps[-1] == STEPS
    with capsys.disabled():
        print(f"\nthe run went on after {times[0]:.0f} s where its node hung, {times[1]:.0f} s where it was killed")
