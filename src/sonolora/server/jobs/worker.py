"""One device's worker: a process that carries out runs, one after the other, and keeps the networks between them.

    python -m sonolora.server.jobs.worker --base tiny --device cpu

In: JSON lines on standard input. A job is `{"id", "folder", "mode", "body", "sources", "settings"}`, where `sources`
and `settings` are fields of `Sources` and `RunSettings`; `{"stop": id}` ends that job's run early. A job whose folder
holds a run is that run continued; else the folder is emptied and the run begins.

Out: JSON lines on what was standard output, each with its kind as `event`. `ready` comes when a job can be taken; then
for the job `begun` (resumed), any number of `phase` (name, total), `progress` (step, total, note), `message` (text),
`warning` (text) and `metrics` (step, values), and one of `done`, `stopped` (step, or null before training),
`input_error` (detail) and `failed` (message, traceback).

The end of the input means that the server is gone: the run saves its state and the process ends, as it does at
SIGTERM. Whatever else writes to standard output, libraries in C too, goes to standard error.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch

from sonolora.core.errors import OUT_OF_MEMORY, InputError, SonoloraError
from sonolora.core.progress import InterruptedRunError
from sonolora.data.fetch import Sources
from sonolora.ltx.weights.base import find_base
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.planning.run_settings import RunSettings, resolve_device
from sonolora.runs.lifecycle import resume, start
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.run_folder import RUN_FILE, alone_in

_PROGRESS_SECONDS = 0.1
_LAST_SECONDS = 30.0  # for saving, when the server is gone; then the process ends however it stands


class CommandReader:
    """What the server wants: the jobs, and which of them is to stop. Read in a thread of its own."""

    def __init__(self) -> None:
        self.closing = False  # nothing more is to be started
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped: set[str] = set()

    def read(self, lines: TextIO) -> None:
        """Until the input ends."""
        with suppress(OSError, ValueError):  # a server that dies may leave half a line
            for line in lines:
                order = json.loads(line)
                if "stop" in order:
                    self._stopped.add(order["stop"])
                else:
                    self._jobs.put(order)
        self.close()
        time.sleep(_LAST_SECONDS)
        os._exit(1)

    def close(self) -> None:
        """End the current run, saved, and take no other. Also in signal handlers."""
        self.closing = True
        self._jobs.put(None)

    def stops(self, job: str) -> bool:
        """Whether the run of this job is to end."""
        return self.closing or job in self._stopped

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Jobs as they come, until there will be no more."""
        while not self.closing and (job := self._jobs.get()) is not None:
            yield job


class Events:
    """What the server is told; the `Progress` of the runs. Of the steps, at most ten a second."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._step, self._told = 0, 0.0
        self._total: int | None = None

    def tell(self, event: str, **values: Any) -> None:
        with suppress(BrokenPipeError):  # nobody is there any more; the run is about to learn of it
            self._out.write(json.dumps({"event": event, **values}) + "\n")
            self._out.flush()

    def phase(self, name: str, total: int | None) -> None:
        self._step, self._total, self._told = 0, total, 0.0
        self.tell("phase", name=name, total=total)

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        self._step = self._step + 1 if to is None else to
        now = time.monotonic()
        if now - self._told >= _PROGRESS_SECONDS or self._step == self._total:
            self._told = now
            self.tell("progress", step=self._step, total=self._total, note=note)

    def message(self, text: str) -> None:
        self.tell("message", text=text)

    def warning(self, text: str) -> None:
        self.tell("warning", text=text)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        self.tell("metrics", step=step, values=values)


def work(networks: Networks, job: Mapping[str, Any], orders: CommandReader, events: Events) -> bool:
    """Carry out one job and tell how it ended. False: the process may be harmed and should end.

    A fault that nobody foresaw, such as one of the device, may come again with the next job in this process.
    """
    try:
        _run(networks, job, orders, events)
    except InterruptedRunError as error:
        events.tell("stopped", step=error.step)
    except InputError as error:
        events.tell("input_error", detail=error.detail())
    except SonoloraError as error:
        # Where the server keeps things is not for its clients to know.
        events.tell("failed", message=str(error).replace(f"{job['folder']}/", ""), traceback=None)
    except torch.OutOfMemoryError:
        events.tell("failed", message=OUT_OF_MEMORY, traceback=traceback.format_exc())
        return False
    except Exception:
        events.tell("failed", message=None, traceback=traceback.format_exc())
        return False
    else:
        events.tell("done")
    return True


def _run(networks: Networks, job: Mapping[str, Any], orders: CommandReader, events: Events) -> None:
    folder = Path(job["folder"])

    def stop() -> bool:
        return orders.stops(job["id"])

    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, wait=True):  # such as with a worker that a killed server has left behind
        resumed = (folder / RUN_FILE).exists()
        events.tell("begun", resumed=resumed)
        if resumed:
            resume(folder, events, stop, networks=networks)
            return
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        said = job["sources"]
        sources = Sources(**{**said, "known": {url: path and Path(path) for url, path in said["known"].items()}})
        mode = find_mode(job["mode"])
        request = parse(mode.request, job["body"])
        settings = RunSettings(networks.base.name, str(networks.device), **job["settings"])
        start(mode, request, settings, folder, events, stop, sources=sources, networks=networks)


def main() -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="sonolora.server.jobs.worker")
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    events = Events(os.fdopen(os.dup(1), "w", encoding="ascii"))
    os.dup2(2, 1)
    faulthandler.enable()
    orders = CommandReader()
    signal.signal(signal.SIGTERM, lambda *_: orders.close())
    threading.Thread(target=orders.read, args=(sys.stdin,), daemon=True).start()
    try:
        networks = Networks(find_base(arguments.base), resolve_device(arguments.device))
        networks.codec  # noqa: B018 - what is wrong with the base shows now
    except SonoloraError as error:
        print(error, file=sys.stderr)
        return 1
    events.tell("ready")
    for job in orders.jobs():
        if not work(networks, job, orders, events):
            return 1
        if not orders.closing:
            events.tell("ready")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # not by way of the interpreter's end, which trips over the thread that still reads
