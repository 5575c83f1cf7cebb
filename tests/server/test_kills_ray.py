"""SIGKILL at random moments of runs on a Ray cluster: of a node with all its processes, or of the server.

Nothing that was asked for is lost or done twice, and each LoRA is that of an undisturbed run, byte for byte.
`SONOLORA_KILLS` is the number of kills (2), `SONOLORA_KILLS_SEED` what their moments follow from (1).
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec

import psutil
import pytest
from killed_server import SHORT, Server, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'sonolora[ray]'"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as test_kills.py"),
]
KILLS = int(os.environ.get("SONOLORA_KILLS", "2"))
SEED = int(os.environ.get("SONOLORA_KILLS_SEED", "1"))
SETTINGS = f'attempts = {KILLS + 1}\ncheckpoint_every = 20\nallow_private_webhooks = true\nplacer = "ray"\n'
FAST = {"period_ms": "1000", "timeout_ms": "2000", "failure_threshold": "3"}  # how soon a node counts as dead


def kill_node(node):
    """All processes of a node, as a power cut would."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_nothing_is_lost_and_nothing_is_done_twice(clips, receiver, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in FAST.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    from ray.cluster_utils import Cluster  # now: Ray reads its token once

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    server = Server(tmp_path / "server", SETTINGS, "--ray-address", cluster.address)
    try:
        node = cluster.add_node(num_cpus=1)
        head = {"Content-Type": "application/zip", "X-Fal-File-Name": "clips.zip"}
        content = (clips / "clips.zip").read_bytes()
        data = server.post("/files/upload", content=content, headers=head).json()["access_url"]

        def submit():
            asked = {"json": {**SHORT, "training_data_url": data}, "params": {"fal_webhook": receiver.url}}
            return server.post("/fal-ai/ltx23-trainer-v2/t2a", **asked).json()["request_id"]

        ids = [submit()]
        wait_until(server.all_done)
        lora, seconds = server.file(ids[0]), server.store.request(ids[0]).result.inference_time
        ids += [submit(), submit()]
        chance, kills, goes, waits = random.Random(SEED), [], 1, []
        for number in range(KILLS):
            if server.all_done():
                ids.append(submit())
            began = time.monotonic()
            wait_until(lambda: server.goes() > goes or server.all_done())  # noqa: B023 - called at once
            waits.append(time.monotonic() - began)
            goes = server.goes()
            time.sleep(chance.uniform(0, seconds))
            kills.append(("server", "node")[number] if number < 2 else chance.choice(("server", "node")))
            if kills[-1] == "server":
                server.kill("server")
            else:
                kill_node(node)
                node = cluster.add_node(num_cpus=1)
        wait_until(server.all_done)
        assert {request.id for request in server.store.requests()} == set(ids)
        assert server.store.billed() == [("t2a", len(ids), 100 * len(ids))]
        wait_until(lambda: all(one.next_try is None for id in ids for one in server.store.deliveries(id)), 60)
        told = Counter(headers["X-Fal-Webhook-Request-Id"] for headers, _ in receiver.got)
        for id in ids:
            assert server.file(id) == lora, id
            kinds = Counter(event.kind for event in server.store.events(id))
            assert (
                kinds["finished"] == 1
                and kinds["started"] + kinds["resumed"] <= 1 + kinds["interrupted"] + kinds["crashed"]
            ), kinds
            assert 1 <= told[id] <= 1 + kills.count("server")
            (run,) = (server.folder / "runs").glob(f"{id}.*")
            assert run == (server.folder / "runs" / id).resolve(), "only the folder of the newest attempt is left"
        with capsys.disabled():
            kinds = Counter(event.kind for id in ids for event in server.store.events(id))
            print(
                f"\n{len(kills)} kills {dict(Counter(kills))}, {len(ids)} runs {dict(kinds)}, "
                f"{sum(told.values()) - len(ids)} webhooks sent twice, each LoRA the same {len(lora):,} bytes; "
                f"work went on after {min(waits):.0f} to {max(waits):.0f} s"
            )
    finally:
        server.database.close()
        server.process.terminate()
        server.process.wait(60)
        cluster.shutdown()
