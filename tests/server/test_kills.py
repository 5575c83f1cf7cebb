"""SIGKILL at random moments of real runs: of the server, of its worker, of both at once.

Whatever is killed, nothing that was asked for is lost or done twice, and each LoRA is that of an undisturbed run, byte
for byte. `SONOLORA_KILLS` is the number of kills (2), `SONOLORA_KILLS_SEED` what their moments follow from (1).
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter

import pytest
from killed_server import SHORT, Server, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the worker by /proc"),
]
KILLS = int(os.environ.get("SONOLORA_KILLS", "2"))
SEED = int(os.environ.get("SONOLORA_KILLS_SEED", "1"))
VICTIMS = ("server", "worker", "both")
# Worker deaths are attempts; here they are no fault of the request. States are saved often, so that some are found.
SETTINGS = f"attempts = {KILLS + 1}\ncheckpoint_every = 20\nallow_private_webhooks = true\n"


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path / "server", SETTINGS, "--device", "cpu")
    yield made
    made.database.close()
    if made.process.poll() is None:
        made.process.terminate()
        made.process.wait(60)


def test_nothing_is_lost_and_nothing_is_done_twice(server, clips, receiver, capsys):
    head = {"Content-Type": "application/zip", "X-Fal-File-Name": "clips.zip"}
    data = server.post("/files/upload", content=(clips / "clips.zip").read_bytes(), headers=head).json()["access_url"]
    body = {**SHORT, "training_data_url": data}

    def submit() -> str:
        path = "/fal-ai/ltx23-trainer-v2/t2a"
        return server.post(path, json=body, params={"fal_webhook": receiver.url}).json()["request_id"]

    def measured(id: str) -> dict[int, set[str]]:
        """What of each step; a loss is a mean since the state that the run went on from, so that it may differ."""
        return {step: set(values) for step, values in server.store.metrics(id)}

    undisturbed = submit()
    wait_until(server.all_done)
    lora = server.file(undisturbed)
    seconds = server.store.request(undisturbed).result.inference_time

    ids = [undisturbed, submit(), submit()]
    chance, kills, goes = random.Random(SEED), [], 1
    for number in range(KILLS):
        if server.all_done():
            ids.append(submit())
        wait_until(lambda: server.goes() > goes or server.all_done())  # noqa: B023 - called at once
        goes = server.goes()
        time.sleep(chance.uniform(0, seconds))
        what = VICTIMS[number] if number < 2 else chance.choice(VICTIMS)
        kills.append((time.time(), what))
        server.kill(what)
    wait_until(server.all_done)

    log = (server.folder / "log.txt").read_text()
    assert "Traceback" not in log, log
    assert {request.id for request in server.store.requests()} == set(ids)
    assert server.store.billed() == [("t2a", len(ids), 100 * len(ids))]
    wait_until(lambda: all(one.next_try is None for id in ids for one in server.store.deliveries(id)), 60)
    repeated = 0
    for id in ids:
        assert server.file(id) == lora, id
        kinds = Counter(event.kind for event in server.store.events(id))
        assert (kinds["started"] >= 1, kinds["finished"]) == (True, 1), kinds
        ended = kinds["interrupted"] + kinds["crashed"]
        assert kinds["started"] + kinds["resumed"] <= 1 + ended, kinds
        assert measured(id) == measured(undisturbed)
        (delivery,) = server.store.deliveries(id)
        assert delivery.outcome == "answered with status 204"
        told = [(headers, body) for headers, body in receiver.got if headers["X-Fal-Webhook-Request-Id"] == id]
        assert len({json.dumps(json.loads(body)["status"]) for _, body in told}) == 1
        # Only a server that is killed before it has noted the answer may send again.
        first = int(told[0][0]["X-Fal-Webhook-Timestamp"])
        assert len(told) <= 1 + sum(first <= when < first + 2 for when, what in kills if what != "worker")
        repeated += len(told) - 1
        run = server.folder / "runs" / id
        assert not [path.name for path in run.rglob(".*")], "nothing is left half done"
        assert {path.name for path in run.iterdir()} == {
            path.name for path in (server.folder / "runs" / undisturbed).iterdir()
        }
    contents = list((server.folder / "files" / "content").iterdir())
    assert len(contents) == 1 + 2 * len(ids), "the upload, and of each run the LoRA and its config, once"
    with capsys.disabled():
        kinds = Counter(event.kind for id in ids for event in server.store.events(id))
        print(
            f"\n{KILLS} kills {dict(Counter(what for _, what in kills))}, {len(ids)} runs {dict(kinds)}, "
            f"{repeated} webhooks sent twice, each LoRA the same {len(lora):,} bytes"
        )
