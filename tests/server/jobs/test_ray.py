"""Runs on the nodes of a Ray cluster, which are processes of this machine, with real workers of the embedded base."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from importlib.util import find_spec

import pytest
from ray_cluster import STEPS, Server, of_node, running_cluster
from s3_server import BUCKET, running_s3

from sonolora.core.errors import SonoloraError
from sonolora.server.placing.ray_placer import check_ray

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'sonolora[ray]'")


def test_a_cluster_without_a_token_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(SonoloraError, match="RAY_AUTH_MODE=token"):
        check_ray()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_ray()


@pytest.fixture
def cluster():
    with running_cluster() as made:
        yield made


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


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops the processes of a node")
def test_nodes_that_share_nothing_but_an_object_store(clips, tmp_path, capsys):
    """Each has a disk of its own. An undisturbed run; one whose node hangs and wakes up again; one whose node dies."""
    with running_s3(), running_cluster() as cluster:
        server = Server(tmp_path / "server", cluster.address, files=f"s3://{BUCKET}/one")

        def add_node(name):
            return cluster.add_node(num_cpus=1, env_vars={"SONOLORA_NODE_FOLDER": str(tmp_path / name)})

        async def run():
            url = await server.upload(clips / "clips.zip")
            task = asyncio.create_task(server.workers.run())
            nodes, times = [add_node("a")], []
            try:
                ids = [server.add(url)]
                lora = await server.done(ids[0])
                for name, end in (("b", signal.SIGSTOP), ("c", signal.SIGKILL)):
                    ids.append(server.add(url))
                    await server.at_step(ids[-1], 20)
                    nodes.append(add_node(name))
                    stopped = of_node(nodes[-2])
                    for process in stopped:
                        process.send_signal(end)
                    began = time.monotonic()
                    await server.until(lambda: "resumed" in server.kinds(ids[-1]))
                    times.append(time.monotonic() - began)
                    if end == signal.SIGSTOP:
                        for process in stopped:
                            process.send_signal(signal.SIGCONT)
                    assert await server.done(ids[-1]) == lora
                    assert server.kinds(ids[-1]) == ["started", "crashed", "resumed", "finished"]
                return ids, times
            finally:
                task.cancel()
                await asyncio.wait({task})

        ids, times = asyncio.run(run())
        assert server.store.billed() == [("t2a", len(ids), STEPS * len(ids))]
        for id in ids:
            made = {path.name for path in server.settings.run_folder(id).rglob("*") if path.is_file()}
            assert {"report.json", "metrics.jsonl", "lora.safetensors"} <= made, "for those who look"
            steps = [step for step, values in server.store.metrics(id) if "loss" in values]
            assert steps == sorted(set(steps)) and steps[-1] == STEPS
        assert not list((tmp_path / "c" / "runs").iterdir())
        with capsys.disabled():
            print(f"\nthe run went on after {times[0]:.0f} s where its node hung, {times[1]:.0f} s where it was killed")
