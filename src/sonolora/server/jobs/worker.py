"""A worker: a process that carries out runs on one device, one after the other, and keeps the networks loaded.

    python -m sonolora.server.jobs.worker --base tiny --device cpu

In: JSON lines on standard input. A job is `{"id", "folder", "mode", "body", "sources", "settings"}`, where `sources`
and `settings` are fields of `Sources` and `RunSettings`; `{"stop": id}` ends that job's run early. A job whose folder
holds a run resumes it; otherwise the folder is emptied and the run starts.

A job may name its own `base`, and with `copies` (address, attempt) where its folder is copied to: see `RunCopy`. A job
without a `folder` works on this machine's own disk, claims its attempt first, and leaves nothing but the copy; its
files are objects (`{"object": name}`), and its base is found by `base_fingerprint`. `from_lora` is the address of a
LoRA that training begins with.
A job of `"kind": "generate"` has `samples` (prompt, scale, seed each), `loras` (path,
and if need be scale and weight_name), `passes` (mode, body, names: see `sonolora.runs.generation.passes`), a `format`,
and as `settings` fields of `GenerateSettings`; it writes sample-001.wav and so on into its folder. A sample's scale is
the strength of the first LoRA.

Out: JSON lines on what was standard output, each with its kind as `event`. `ready` means that a job can be sent; the
job then gives `begun` (resumed), any number of `phase` (name, total), `progress` (step, total, note), `message`
(text), `warning` (text) and `metrics` (step, values), and one of `done`, `stopped` (step, or null before training),
`input_error` (detail) and `failed` (message, traceback, disk_full).

The end of the input means that the server is gone: the run saves its state and the process ends, as at SIGTERM.
Anything else that writes to standard output, C libraries included, goes to standard error.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch

from sonolora.core.cancellation import CancelToken, InterruptedRunError, StopRequestedError
from sonolora.core.devices import resolve_device
from sonolora.core.errors import OUT_OF_MEMORY, InputError, SonoloraError
from sonolora.core.object_store import ObjectAddress, ObjectStore, ObjectStoreError
from sonolora.data.cache_folder import default_cache_folder
from sonolora.data.fetch import Sources
from sonolora.data.fetch_lora import fetch_lora
from sonolora.ltx.weights.base import Base, find_base
from sonolora.ltx.weights.base_lookup import find_by_fingerprint
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import SweepPlan
from sonolora.runs.artifacts import RECORD, RunArtifacts, RunDeletedError
from sonolora.runs.generation.passes import NamedLoRA, Pass, generate_passes
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.resume import resume
from sonolora.runs.run_copy import RunCopy, SupersededError
from sonolora.runs.run_folder import exclusive_use
from sonolora.runs.start import start
from sonolora.server.jobs.hidden_paths import HiddenPaths
from sonolora.server.jobs.results import sample_name
from sonolora.server.jobs.retrying import is_disk_full
from sonolora.server.placing.node_folder import make_node_run_folder, node_run_folder

_PROGRESS_SECONDS = 0.1
_SAVE_SECONDS = 30.0  # to save the state when the server is gone; then the process exits
_OWNER = f"{platform.node()} {os.getpid()} {uuid.uuid4()}"  # of the attempts that this process claims


class CommandReader:
    """Reads the server's commands, in a thread: the jobs, and which of them to stop."""

    def __init__(self) -> None:
        self.closing = False  # start nothing more
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped: set[str] = set()

    def read(self, lines: TextIO) -> None:
        """Read until the input ends."""
        with suppress(OSError, ValueError):  # a server that dies may leave half a line
            for line in lines:
                command = json.loads(line)
                if "stop" in command:
                    self._stopped.add(command["stop"])
                else:
                    self._jobs.put(command)
        self.close()
        time.sleep(_SAVE_SECONDS)
        os._exit(1)

    def close(self) -> None:
        """Let the current run save its state and end, and start no other. Safe in signal handlers."""
        self.closing = True
        self._jobs.put(None)

    def stops(self, job: str) -> bool:
        """Whether the run of this job is to end."""
        return self.closing or job in self._stopped

    def jobs(self) -> Iterator[dict[str, Any]]:
        """The jobs as they arrive, until `close`."""
        while not self.closing and (job := self._jobs.get()) is not None:
            yield job


class Events:
    """Writes events for the server; the `Progress` of the runs. At most ten `progress` events a second.

    Clients see them, except tracebacks: `hidden` takes out paths.
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.hidden = HiddenPaths({})
        self._step, self._last_progress = 0, 0.0
        self._total: int | None = None

    def send(self, event: str, **values: Any) -> None:
        with suppress(BrokenPipeError):  # the server is gone; the end of the input stops the run
            trace = {"traceback": values.pop("traceback")} if "traceback" in values else {}
            self.out.write(json.dumps({"event": event, **self.hidden.hide(values), **trace}) + "\n")
            self.out.flush()

    def phase(self, name: str, total: int | None) -> None:
        self._step, self._total, self._last_progress = 0, total, 0.0
        self.send("phase", name=name, total=total)

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        self._step = self._step + 1 if to is None else to
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_SECONDS or self._step == self._total:
            self._last_progress = now
            self.send("progress", step=self._step, total=self._total, note=note)

    def remaining(self, seconds: float) -> None:
        self.send("remaining", seconds=round(seconds, 1))

    def message(self, text: str) -> None:
        self.send("message", text=text)

    def warning(self, text: str) -> None:
        self.send("warning", text=text)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        self.send("metrics", step=step, values=values)


class Desk:
    """The networks that the process has loaded: of one base at a time."""

    def __init__(self, device: torch.device, networks: Networks | None = None) -> None:
        self.device, self.networks = device, networks

    def of(self, job: Mapping[str, Any], events: Events) -> Networks:
        """Those of the base that the job names. Raises `SonoloraError` when it is not there."""
        name = job.get("base")
        if self.networks is None or (name is not None and name != self.networks.base.name):
            found = _base(job, events)
            if self.networks is None or found.name != self.networks.base.name:
                self.networks = Networks(found, self.device)
        return self.networks


def _base(job: Mapping[str, Any], events: Events) -> Base:
    if fingerprint := job.get("base_fingerprint"):
        return find_by_fingerprint(job["base"], fingerprint, ObjectStore(job["copies"]["address"]), events)
    return find_base(job["base"])


def work(desk: Desk, job: Mapping[str, Any], commands: CommandReader, events: Events) -> bool:
    """Carry out one job and report how it ended. False: the process may be damaged and should end.

    After an unexpected fault, such as one of the device, the next job in this process may fail, too.
    """
    try:
        networks = desk.of(job, events)
        (_generate if job.get("kind") == "generate" else _run)(networks, job, commands, events)
    except InterruptedRunError as error:
        events.send("stopped", step=error.step)
    except SupersededError as error:
        events.warning(str(error))
        events.send("stopped", step=None)
    except ObjectStoreError as error:
        events.warning(f"the object store cannot be used ({error.reason}): the run is tried again")
        events.send("stopped", step=None)
    except InputError as error:
        events.send("input_error", detail=error.detail())
    except SonoloraError as error:
        events.send("failed", message=str(error), traceback=None, disk_full=is_disk_full(error))
    except torch.OutOfMemoryError:
        events.send("failed", message=OUT_OF_MEMORY, traceback=traceback.format_exc())
        return False
    except Exception:
        events.send("failed", message=None, traceback=traceback.format_exc())
        return False
    else:
        events.send("done")
    return True


def _hide_paths(events: Events, folder: Path, base: Base) -> None:
    events.hidden = HiddenPaths(
        {
            folder: "the run",
            folder.parents[1]: "the server's folder",
            default_cache_folder(): "the cache",
            base.checkpoint.path: "the base",
            base.text_encoder: "the base's text encoder",
        }
    )


def _sources(job: Mapping[str, Any]) -> Sources:
    def place(known: Any) -> Path | ObjectAddress | None:
        if isinstance(known, dict):
            return ObjectAddress(job["copies"]["address"], known["object"])
        return known and Path(known)

    known = {url: place(known) for url, known in job["sources"]["known"].items()}
    return Sources(**{**job["sources"], "known": known})


@contextmanager
def _at_work(job: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of the job, for this process alone. What is made there is copied to where the job says.

    Raises `SupersededError` and `ObjectStoreError` as `RunCopy.kept` does.
    """
    copies = job.get("copies")
    copy = RunCopy(ObjectStore(copies["address"]), job["id"], copies["attempt"]) if copies else None
    if "folder" in job:
        folder = Path(job["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        # A killed server may have left its worker running.
        with exclusive_use(folder, wait=True), copy.kept(folder) if copy else nullcontext():
            yield folder
        return
    assert copy is not None
    folder = make_node_run_folder(job["id"])
    with exclusive_use(folder, wait=True), copy.kept(folder, _OWNER):
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _folder(job: Mapping[str, Any]) -> Path:
    return Path(job["folder"]) if "folder" in job else node_run_folder(job["id"])


class _StoppableEvents(Events):
    """Raises `StopRequestedError` between two steps of a sampler, when the job is to end."""

    def __init__(self, events: Events, cancel: CancelToken) -> None:
        super().__init__(events.out)
        self.hidden, self._cancel = events.hidden, cancel

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        super().advance(note, to=to)
        self._cancel.check()


def _generate(networks: Networks, job: Mapping[str, Any], commands: CommandReader, events: Events) -> None:
    """Samples that are there already, from before an interruption, are not generated again."""
    _hide_paths(events, _folder(job), networks.base)
    samples, sources = job["samples"], _sources(job)
    passes = [Pass(find_mode(one["mode"]), one["body"], one["names"]) for one in job["passes"]]
    cancel = CancelToken(lambda: commands.stops(job["id"]))
    stoppable = _StoppableEvents(events, cancel)
    with _at_work(job) as folder, tempfile.TemporaryDirectory(dir=folder, prefix=".loras-") as scratch:
        events.send("begun", resumed=False)
        loras = _loras(job["loras"], Path(scratch), sources)
        for number, sample in enumerate(samples, start=1):
            out = folder / sample_name(number, job["format"])
            if out.exists():
                continue
            settings = GenerateSettings(
                base=networks.base.name, device=str(networks.device), seed=sample["seed"], **job["settings"]
            )
            used = [replace(lora, strength=sample["scale"]) for lora in loras[:1]] + loras[1:]
            prompted = [replace(one, body={**one.body, "prompt": sample["prompt"]}) for one in passes]
            try:
                cancel.check()
                generate_passes(prompted, used, settings, out, stoppable, sources=sources, networks=networks)
            except StopRequestedError:
                raise InterruptedRunError(folder, number - 1, len(samples)) from None
            events.send("sample", number=number)


def _loras(named: Sequence[Mapping[str, Any]], into: Path, sources: Sources) -> list[NamedLoRA]:
    """Those of a job, as files."""
    found = []
    for index, lora in enumerate(named):
        field = f"loras.{index}.path"
        path = fetch_lora(
            lora["path"], into / str(index), weight_name=lora.get("weight_name"), field=field, sources=sources
        )
        found.append(NamedLoRA(path, lora.get("scale", 1.0), field))
    return found


def _run(networks: Networks, job: Mapping[str, Any], commands: CommandReader, events: Events) -> None:
    _hide_paths(events, _folder(job), networks.base)

    def stop() -> bool:
        return commands.stops(job["id"])

    try:
        _start_or_resume(networks, job, events, stop)
    except RunDeletedError:
        events.warning("the folder of this run was deleted while it was in use: the run starts again")
        _start_or_resume(networks, job, events, stop)


def _start_or_resume(networks: Networks, job: Mapping[str, Any], events: Events, stop: Callable[[], bool]) -> None:
    with _at_work(job) as folder:
        resumed = RECORD in RunArtifacts(folder)
        events.send("begun", resumed=resumed)
        if resumed:
            resume(folder, events, stop, networks=networks)
            return
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        mode = find_mode(job["mode"])
        plan = SweepPlan.of(job["sweep"]) if job.get("sweep") else None
        request = parse(mode.request, job["body"]) if plan is None else plan.request(mode, job["body"])
        settings = RunSettings(networks.base.name, str(networks.device), **job["settings"])
        sources = _sources(job)
        with tempfile.TemporaryDirectory() as scratch:
            if "from_lora" in job:
                path = fetch_lora(job["from_lora"], Path(scratch), field="from_lora", sources=sources)
                settings = replace(settings, from_lora=str(path))
            start(mode, request, settings, folder, events, stop, sources=sources, networks=networks, plan=plan)


def main() -> int:
    """Run the process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="sonolora.server.jobs.worker")
    parser.add_argument("--base", help="loaded now; without it that of the first job is")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    events = Events(os.fdopen(os.dup(1), "w", encoding="ascii"))
    os.dup2(2, 1)
    faulthandler.enable()
    commands = CommandReader()
    signal.signal(signal.SIGTERM, lambda *_: commands.close())
    threading.Thread(target=commands.read, args=(sys.stdin,), daemon=True).start()
    try:
        desk = Desk(resolve_device(arguments.device))
        if arguments.base is not None:
            desk.networks = Networks(find_base(arguments.base), desk.device)
            desk.networks.codec  # noqa: B018 - loaded now, so that a faulty base is reported now
    except SonoloraError as error:
        print(error, file=sys.stderr)
        return 1
    events.send("ready")
    for job in commands.jobs():
        if not work(desk, job, commands, events):
            return 1
        if not commands.closing:
            events.send("ready")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a normal exit aborts while a thread still reads standard input
