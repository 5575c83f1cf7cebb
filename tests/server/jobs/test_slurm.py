"""Runs as jobs of submitit's local executor, which has Slurm's interface, with a worker of the embedded base."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import pytest
import uvloop

from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.placing.remote_placer import RemotePlacer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("submitit") is None, reason="needs pip install 'sonolora[slurm]'"),
]
LIMIT = 300  # seconds for anything to happen, on a busy machine


def test_a_run_is_paused_goes_on_in_another_job_and_the_next_one_is_refused(served, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ("slurm", str(tmp_path / "slurm"), "--base", "tiny", "--options", "cluster=local,timeout_min=10")
    served.placer = partial(RemotePlacer, options)
    body = {"rank": 8, "number_of_steps": 100, "audio_duration_seconds": 0.5}

    def add(**changes):
        new = NewRequest(endpoint="t2a", mode="t2a", body={**body, **changes}, key_id="k")
        return served.store.add_request(new).id

    async def run():
        async def chunks():
            yield (clips / "clips.zip").read_bytes()

        file = await served.storage.receive(served.storage.new("clips.zip", "application/zip", key_id="k"), chunks())
        id = add(training_data_url=f"http://127.0.0.1:8000{file.address}")
        async with served.running():
            await served.until(lambda: served.store.request(id).progress.get("steps") == 100, LIMIT)
            served.store.pause(id, True)
            await served.until(lambda: served.store.request(id).state == State.QUEUED, LIMIT)
            served.store.pause(id, False)
            bad = add(training_data_url="data:;base64,AAAA")
            await served.until(lambda: served.store.request(bad).state == State.DONE, LIMIT)
            return id, bad

    id, bad = uvloop.run(run())
    assert served.store.request(id).result.status == 200
    assert served.kinds(id) == ["started", "interrupted", "resumed", "finished"]
    assert served.store.request(bad).result.status == 422
