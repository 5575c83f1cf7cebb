"""A placer in another process: here one that places on this machine, with workers that play a part."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

import pytest
import uvloop

from sonolora.server.placing import remote_placer
from sonolora.server.placing.remote_placer import RemotePlacer

PROCESS = """
import asyncio, os, sys
from sonolora.server.placing import worker_process
from sonolora.server.placing.local_placer import LocalPlacer
from sonolora.server.placing.placer_process import relay

worker_process._COMMAND = (sys.executable, sys.argv[1])
open(sys.argv[2], "a").write(f"{os.getpid()}\\n")
asyncio.run(relay(LocalPlacer("tiny", ("cpu",), lambda: None), sys.stdin, sys.stdout))
"""


@pytest.fixture
def remote(served, tmp_path, monkeypatch):
    """Has the processes' ids in a file."""
    (tmp_path / "process.py").write_text(PROCESS)
    command = (sys.executable, str(tmp_path / "process.py"), str(tmp_path / "player.py"), str(tmp_path / "pids"))
    monkeypatch.setattr(remote_placer, "_COMMAND", command)
    monkeypatch.setattr(remote_placer, "FIRST_PAUSE", 0.05)
    served.placer = partial(RemotePlacer, ())
    return lambda: [int(line) for line in (tmp_path / "pids").read_text().split()]


def test_runs_end_are_cancelled_and_crash_as_on_this_machine(served, remote):
    async def run():
        async with served.running():
            finished = await served.done(first)
            await served.in_hand(waiting)
            served.store.request_cancel(waiting)
            return finished, await served.done(waiting), await served.done(crashing)

    first, waiting, crashing = served.add("done"), served.add("wait"), served.add("kill")
    finished, cancelled, crashed = uvloop.run(run())
    assert [done.result.status for done in (finished, cancelled, crashed)] == [200, 499, 503]
    assert served.lines(first)[0] == "started"
    assert served.goes(first) == served.goes(waiting), "one worker, kept"
    assert "the worker was killed by SIGKILL" in crashed.result.error
    assert len(remote()) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(remote()[0], 0)


def test_when_the_process_ends_the_run_is_tried_again_by_the_next(served, remote):
    async def run():
        async with served.running():
            await served.in_hand(id)
            os.kill(remote()[0], signal.SIGKILL)
            await served.until(lambda: len(served.goes(id)) == 2)
            assert served.kinds(id)[:2] == ["started", "crashed"]
            served.store.request_cancel(id)
            return await served.done(id)

    id = served.add("wait")
    assert uvloop.run(run()).attempts == 1
    assert len(remote()) == 2
    assert "the cluster was lost; trying again" in served.lines(id)
