"""Runs as jobs of a Slurm cluster, through submitit: the process of one run per job, with its events in a file.

In: how many jobs may run or wait at a time, and what submitit asks of Slurm for each. Out: that many slots. All nodes
share the server's folder. Slurm, not the server, knows which cards there are: ask for one that holds every run.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sonolora.core.errors import SonoloraError
from sonolora.server.placing.attempt_folders import begin_attempt
from sonolora.server.placing.placer import ENDINGS, Run, Slot, WorkerDiedError

_COMMAND = (sys.executable, "-m", "sonolora.server.jobs.worker")
_EVENTS, _STOP = "events.jsonl", "stop"
_POLL_SECONDS = 0.5
_STATE_SECONDS = 5.0  # between two questions to Slurm


def carry_out(base: str, command: Mapping[str, Any], run_folder: Path, place: Path) -> None:
    """The job, on its node. It ends when the run has ended, or belongs to a newer attempt."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*_COMMAND, "--base", base], **pipes) as worker, (place / _EVENTS).open("a") as events:
        assert worker.stdin is not None and worker.stdout is not None
        _send(worker.stdin, command)

        def watch() -> None:
            stopped = False
            while worker.poll() is None:
                time.sleep(_POLL_SECONDS)
                if run_folder.resolve() != Path(command["folder"]):
                    worker.kill()
                elif not stopped and (stopped := (place / _STOP).exists()):
                    _send(worker.stdin, {"stop": command["id"]})

        threading.Thread(target=watch, daemon=True).start()
        for line in worker.stdout:
            events.write(line)
            events.flush()
            if line.endswith("\n") and json.loads(line)["event"] in ENDINGS:
                worker.stdin.close()


def _send(commands: IO[str] | None, command: Mapping[str, Any]) -> None:
    assert commands is not None
    commands.write(json.dumps(command) + "\n")
    commands.flush()


@dataclass
class Placed:
    """A job. `seen`: bytes of its events that have been read."""

    job: Any
    place: Path
    seen: int = 0


def check_slurm(options: str) -> None:
    """Raise `SonoloraError` unless submitit and Slurm are here and the options are of the form NAME=VALUE,..."""
    if importlib.util.find_spec("submitit") is None:
        raise SonoloraError("--placer slurm needs submitit: pip install 'sonolora[slurm]'")
    for one in filter(None, options.split(",")):
        if not all(one.partition("=")):
            raise SonoloraError(f"--slurm-options: {one!r} is not NAME=VALUE")
    if "cluster=local" not in options.split(",") and shutil.which("srun") is None:
        raise SonoloraError("--placer slurm needs Slurm: there is no `srun` on the PATH of this machine")


class SlurmPlacer:
    """`options` are parameters of submitit, and `cluster=local` for a trial without Slurm.

    `folder` is for the jobs' scripts, logs and events.
    """

    def __init__(self, base: str, folder: Path, jobs: int, options: str) -> None:
        self._base, self._folder, self._jobs = base, folder, jobs
        self._options = dict(option.split("=", 1) for option in filter(None, options.split(",")))
        self._placed: list[Placed] = []

    async def __aenter__(self) -> Self:
        import submitit

        options = {name: int(value) if value.isdecimal() else value for name, value in self._options.items()}
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=str(options.pop("cluster", "slurm")))
            self._executor.update_parameters(**options)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise SonoloraError(f"jobs cannot be given to Slurm: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for placed in self._placed:
            await self.stop(placed, save=False)

    async def capacity(self) -> list[Slot]:
        return [Slot(f"slurm/{index}", free=True) for index in range(self._jobs)]

    async def start(self, run: Run, attempt: int) -> Placed:
        return await asyncio.to_thread(self._start, run, attempt)

    def _start(self, run: Run, attempt: int) -> Placed:
        run_folder = Path(run.command["folder"]).absolute()
        folder = begin_attempt(run_folder, attempt).resolve()
        place = self._folder.absolute() / folder.name
        place.mkdir(parents=True)
        command = {**run.command, "folder": str(folder)}
        job = self._executor.submit(carry_out, self._base, command, run_folder, place)
        self._placed.append(Placed(job, place))
        return self._placed[-1]

    async def lines(self, handle: Placed) -> AsyncIterator[dict[str, Any]]:
        asked, over = 0.0, False
        while True:
            text = await asyncio.to_thread(_read, handle.place / _EVENTS, handle.seen)
            for line in text.splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                handle.seen += len(line)
                event = json.loads(line)
                if event["event"] in ENDINGS:
                    self._placed.remove(handle)
                yield event
                if event["event"] in ENDINGS:
                    return
            if over:
                self._placed.remove(handle)
                raise WorkerDiedError(f"its Slurm job {handle.job.job_id} ended: {handle.job.state}")
            if time.monotonic() - asked > _STATE_SECONDS:
                asked, over = time.monotonic(), await asyncio.to_thread(handle.job.done)
                continue
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, handle: Placed, save: bool) -> None:
        await asyncio.to_thread((handle.place / _STOP).touch)
        if not save:
            await asyncio.to_thread(handle.job.cancel, check=False)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
