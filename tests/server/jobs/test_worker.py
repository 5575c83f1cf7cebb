"""The worker process, with real, very short runs on three layers: stopped, orphaned, killed, and resumed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import wave
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from shallow_base import write_shallow_base

from sonolora.ltx.weights.base import BUILT_IN
from sonolora.runs.artifacts import FROM_LORA, RunArtifacts
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.storage import Storage
from sonolora.server.health import Health
from sonolora.server.jobs.records import NewRequest, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.placing.attempt_folders import begin_attempt, drop_older_attempts
from sonolora.server.placing.local_placer import LocalPlacer
from sonolora.server.settings import ServerSettings

pytestmark = pytest.mark.xdist_group("worker")  # they share an undisturbed run
LIMIT = 300  # seconds for anything to happen, on a busy machine

STEPS = 24
PREPARING = ("fetching the data", "reading and encoding the clips", "writing the debug archive")
LAST = f"at step {STEPS}"

# Imports everything once; then a line with two named pipes makes a worker that has them as its input and output.
# The least number of steps is a rule of the wire: a few of them show that a run is wired right. So do previews of few
# sampling steps, but they must leave the time to stop a worker before its run is over.
FORKS = """
import os, sys
from annotated_types import Ge
from sonolora.modes.request import AudioRequest, TrainRequest
from sonolora.planning import needs
from sonolora.server.jobs import worker
needs.PREVIEW_STEPS = 10
base = sys.argv[1]
for request in (TrainRequest, AudioRequest, *AudioRequest.__subclasses__()):
    request.model_fields["number_of_steps"].metadata = [Ge(1)]
    request.model_rebuild(force=True)
for line in iter(sys.stdin.readline, ""):
    commands, events = line.split()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(commands, os.O_RDONLY), 0)
        os.dup2(os.open(events, os.O_WRONLY), 1)
        sys.argv, sys.stdin = ["worker", "--device", "cpu", "--base", base], open(0)
        os._exit(worker.main())
    print(child, flush=True)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""


class Worker:
    """A worker, by its two pipes."""

    def __init__(self, commands, events, pid):
        self.commands, self.events, self.pid = commands, events, pid

    def send(self, command):
        self.commands.write(json.dumps(command) + "\n")
        self.commands.flush()

    def job(self, folder, body, *, id="job", mode="t2a", sources=None, begin=None, **settings):
        settings = {"checkpoint_every": 4, "preview_every": STEPS // 2, **settings}
        sources = {"known": {}, **(sources or {})}
        job = {"id": id, "folder": str(folder), "mode": mode, "body": body, "sources": sources, "settings": settings}
        self.send({**job, **(begin or {})})

    def event(self):
        line = self.events.readline()
        return json.loads(line) if line else None

    def until(self, kind, **values):
        """Events up to the first of this kind with these values; `step` is the least, `name` the end of the name."""
        seen = []
        step, name = values.pop("step", 0), values.pop("name", "")
        while (event := self.event()) is not None:
            seen.append(event)
            if (
                event["event"] == kind
                and (event.get("step") or 0) >= step
                and event.get("name", "").endswith(name)
                and values.items() <= event.items()
            ):
                return seen
        raise AssertionError(f"it ended without {kind} {values} after {seen[-3:]}")

    def end(self):
        """What it still sends, until it has ended."""
        return [json.loads(line) for line in self.events]

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)


def python(*arguments):
    """A process with two pipes; the models are too small for threads to pay."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **pipes)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    base = write_shallow_base(BUILT_IN / "tiny", tmp_path_factory.mktemp("base") / "three", layers=3)
    with python("-c", FORKS, base) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def workers(forks, tmp_path_factory):
    """Makes workers, each with a folder for its pipes."""

    def make():
        pipes = [tmp_path_factory.mktemp("pipes") / name for name in ("commands", "events")]
        for pipe in pipes:
            os.mkfifo(pipe)
        forks.stdin.write(" ".join(map(str, pipes)) + "\n")
        forks.stdin.flush()
        commands = pipes[0].open("w")
        one = Worker(commands, pipes[1].open(), int(forks.stdout.readline()))
        assert one.event() == {"event": "ready"}
        return one

    return make


@pytest.fixture
def worker(workers):
    """The same; those that are left at the end of the test are ended."""
    made = []

    def make():
        made.append(workers())
        return made[-1]

    yield make
    for one in made:
        one.commands.close()
        one.end()
        one.events.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """An archive of two clips of half a second."""
    path = tmp_path_factory.mktemp("clips") / "clips.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(2):
            time_ = np.arange(8000) / 16000
            sound = 20000 * np.sin(2 * np.pi * (300 + 200 * index) * time_) * np.exp(-4 * time_)
            with archive.open(f"clip{index}.wav", "w") as file, wave.open(file, "wb") as out:
                out.setparams((1, 2, 16000, 8000, "NONE", ""))
                out.writeframes(sound.astype("<i2").tobytes())
            archive.writestr(f"clip{index}.txt", f"a tone, number {index}")
    return path


@pytest.fixture(scope="module")
def body(clips):
    return {
        "training_data_url": str(clips),
        "rank": 8,
        "number_of_steps": STEPS,
        "learning_rate": 0.002,
        "audio_duration_seconds": 0.5,
        "validation": [{"prompt": "a tone"}],
        "stg_scale": 0,  # two passes of the model for a preview, not three
        "debug_dataset": True,
    }


OUTPUTS = ("lora.safetensors", "config.json", "preview.wav")


@pytest.fixture(scope="module")
def undisturbed(workers, body, tmp_path_factory):
    """The folder and the events of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    one = workers()
    one.job(folder, body)
    events = one.until("ready")
    one.commands.close()
    assert one.end() == []
    one.events.close()
    return folder, events


def same_as(undisturbed, folder):
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name
    previews = {path.name: path.read_bytes() for path in (folder / "previews").glob("*.wav")}
    assert previews == {path.name: path.read_bytes() for path in (undisturbed[0] / "previews").glob("*.wav")}
    assert len(previews) == 3
    grids = [
        {line["step"]: line["train_eval_loss"] for line in RunArtifacts(path).metrics() if "train_eval_loss" in line}
        for path in (folder, undisturbed[0])
    ]
    assert grids[0] == grids[1]


def test_its_events(undisturbed):
    folder, events = undisturbed
    kinds = [event["event"] for event in events]
    assert kinds[0] == "begun"
    assert kinds[-2:] == ["done", "ready"]
    assert events[0]["resumed"] is False
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert [*phases[:3], phases[4], phases[6]] == [*PREPARING, "training", "training"]
    assert [phase.partition(" ")[2] for phase in phases[3::2]] == ["at step 0", f"at step {STEPS // 2}", LAST]
    steps = [event["step"] for event in events if event["event"] == "progress" and event["total"] == STEPS]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS
    sent = [{"step": event["step"], **event["values"]} for event in events if event["event"] == "metrics"]
    assert sent == RunArtifacts(folder).metrics()
    messages = [event["text"] for event in events if event["event"] == "message"]
    assert any(text.startswith("training on 2 clips of 0.5 s; no clips are held out") for text in messages)


def test_killed_or_stopped_in_every_phase_and_resumed_gives_the_same_files(undisturbed, body, worker, tmp_path):
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoints"

    def until(kind, resumed, **values):
        one = worker()
        one.job(folder, body)
        assert one.event() == {"event": "begun", "resumed": resumed}
        one.until(kind, **values)
        return one

    for name in PREPARING:
        until("phase", False, name=name).kill()
    until("phase", False, name="at step 0").kill()
    until("progress", True, step=5, total=STEPS).kill()

    one = until("progress", True, step=7, total=STEPS)  # the server dies
    one.commands.close()
    (stopped,) = [event for event in one.end() if event["event"] == "stopped"]
    assert (checkpoints / f"step-{stopped['step']:06d}.safetensors").exists()

    until("phase", True, name=f"at step {STEPS // 2}").kill()
    one = until("progress", True, step=STEPS // 2 + 3, total=STEPS)
    one.kill(signal.SIGTERM)
    assert [event["event"] for event in one.end()][-1] == "stopped"

    one = until("phase", True, name=LAST)
    assert (folder / "lora.safetensors").exists(), "in the middle of writing the outputs"
    one.kill()
    one = until("done", True)
    same_as(undisturbed, folder)
    assert not list(folder.rglob(".*")), "nothing temporary is left"

    before = [(folder / name).read_bytes() for name in OUTPUTS]
    one.until("ready")
    one.job(folder, body)  # the server has missed that it is done
    one.until("done")
    assert [(folder / name).read_bytes() for name in OUTPUTS] == before


def test_a_stop_is_quick_and_saved_and_the_worker_stays(body, worker, tmp_path):
    one = worker()
    one.job(tmp_path / "run", body, id="first")
    one.until("progress", step=2, total=STEPS)
    asked = time.monotonic()
    one.send({"stop": "another"})
    one.send({"stop": "first"})
    stopped = one.until("stopped")[-1]
    assert time.monotonic() - asked < 10
    assert stopped["step"] >= 2
    assert (tmp_path / "run" / "checkpoints" / f"step-{stopped['step']:06d}.safetensors").exists()
    assert one.event() == {"event": "ready"}
    one.job(tmp_path / "run", body, id="second")
    assert one.event() == {"event": "begun", "resumed": True}
    one.until("message")  # the device
    assert one.until("message")[-1]["text"].endswith(f"from step {stopped['step']}")
    one.send({"stop": "second"})
    one.until("ready")


def test_a_run_whose_folder_is_deleted_starts_again(undisturbed, body, worker, tmp_path):
    one, folder = worker(), tmp_path / "run"
    one.job(folder, body)
    one.until("progress", step=5, total=STEPS)
    folder.rename(tmp_path / "elsewhere")  # as deleted, but at once
    events = one.until("done")
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert sum("the run starts again" in text for text in warnings) == 1
    assert [event["resumed"] for event in events if event["event"] == "begun"] == [False]
    same_as(undisturbed, folder)


class _Drips(BaseHTTPRequestHandler):
    """A byte now and then, and never all of them."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with self.server.lock:
            while not self.server.over.wait(0.05):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return

    def log_message(self, format, *args):
        pass


@pytest.fixture
def slow_url():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Drips) as server:
        server.lock, server.over = threading.Lock(), threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/clips.zip?sig=SECRET"
        server.over.set()
        server.shutdown()
        thread.join()


def test_stopped_while_it_fetches(body, worker, tmp_path, slow_url):
    one = worker()
    one.job(tmp_path / "run", {**body, "training_data_url": slow_url})
    progress = one.until("progress")[-1]
    assert progress["note"] == "0.0 of 1.0 MB"
    one.send({"stop": "job"})
    seen = one.until("stopped")
    assert seen[-1]["step"] is None
    assert "SECRET" not in json.dumps(seen)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_is_one_workers_at_a_time(body, worker, tmp_path, slow_url):
    """A worker whose server was killed may still be at it when the next server begins."""
    first, second = worker(), worker()
    first.job(tmp_path / "run", {**body, "training_data_url": slow_url})
    first.until("progress")
    second.job(tmp_path / "run", {**body, "training_data_url": "/nowhere.zip"})
    seen = []
    reading = threading.Thread(target=lambda: seen.extend(second.until("ready")))
    reading.start()
    reading.join(0.5)
    assert seen == []
    first.commands.close()
    assert first.end()[-1]["event"] == "stopped"
    reading.join(LIMIT)
    assert [event["event"] for event in seen][-2:] == ["input_error", "ready"]


def test_a_process_of_an_older_attempt_that_wakes_up_does_no_harm(undisturbed, body, worker, tmp_path):
    """It is stopped in the middle of its steps, the run goes on elsewhere and ends, and then it goes on."""
    run = tmp_path / "run"

    def content():
        return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}

    older, newer = worker(), worker()
    older.job(begin_attempt(run, 1), body)
    older.until("progress", step=10, total=STEPS)
    older.kill(signal.SIGSTOP)
    newer.job(begin_attempt(run, 2), body)
    events = newer.until("done")
    assert events[0] == {"event": "begun", "resumed": True}
    same_as(undisturbed, run)
    ended = content()
    older.kill(signal.SIGCONT)
    older.until("progress", step=17, total=STEPS)  # and saves a state on the way
    older.commands.close()
    assert {event["event"] for event in older.end()} >= {"stopped"}
    assert content() == ended
    drop_older_attempts(run)
    assert [path.name for path in tmp_path.iterdir() if not path.is_symlink()] == ["run.attempt-2"]
    assert content() == ended


@pytest.mark.parametrize(
    ("changes", "sources", "loc", "kind", "words"),
    [
        ({"rank": 9}, {}, ["rank"], "literal_error", "8, 16, 32, 64 or 128"),
        (
            {"training_data_url": "/etc/passwd"}, {"local": False}, ["training_data_url"], "file_download_error",
            "not a URL",
        ),
        (
            {"training_data_url": "http://127.0.0.1:9/x.zip?sig=SECRET"}, {"private": False}, ["training_data_url"],
            "file_download_error", "--allow-private-urls",
        ),
        ({"training_data_url": "data:;base64,AAAA"}, {}, ["training_data_url"], "invalid_archive", "not a .zip"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_used(body, worker, tmp_path, changes, sources, loc, kind, words):
    one = worker()
    one.job(tmp_path / "run", {**body, **changes}, sources=sources)
    *_, last, ready = one.until("ready")
    assert last["event"] == "input_error"
    (item,) = last["detail"]
    assert (item["loc"], item["type"]) == (["body", *loc], kind)
    assert words in item["msg"]
    assert "SECRET" not in json.dumps(last)
    assert ready == {"event": "ready"}


def test_addresses_that_are_known_need_no_network(undisturbed, body, clips, worker, tmp_path):
    """That of the data, and that of a LoRA which training begins with."""
    url, lora_url = (f"http://127.0.0.1:9/files/abc/{name}" for name in ("clips.zip", "lora.safetensors"))
    lora = undisturbed[0] / "lora.safetensors"
    one = worker()
    sources = {"local": False, "private": False, "known": {url: str(clips), lora_url: str(lora)}}
    one.job(tmp_path / "run", {**body, "training_data_url": url}, sources=sources, begin={"from_lora": lora_url})
    one.until("phase", name="at step 0")
    one.send({"stop": "job"})
    one.until("stopped")
    assert (tmp_path / "run" / FROM_LORA).read_bytes() == lora.read_bytes()


def test_a_fault_that_can_be_explained(undisturbed, body, worker, tmp_path):
    (tmp_path / "run").mkdir()
    run = json.loads((undisturbed[0] / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**run, "base_fingerprint": "another"}))
    (tmp_path / "run" / "prepared.safetensors").write_bytes(b"")
    one = worker()
    one.job(tmp_path / "run", body)
    failed = one.until("failed")[-1]
    assert "base" in failed["message"] and str(tmp_path) not in failed["message"]
    assert failed["traceback"] is None
    one.until("ready")


def test_after_a_fault_that_nobody_foresaw_the_process_ends(body, worker, tmp_path):
    one = worker()
    one.job(tmp_path / "run", body, checkpoint_every="often")
    *_, failed = one.end()
    assert failed["event"] == "failed"
    assert failed["message"] is None
    assert "TypeError" in failed["traceback"]


def test_without_a_base_it_does_not_get_ready(tmp_path):
    command = [sys.executable, "-m", "sonolora.server.jobs.worker", "--base", str(tmp_path)]
    ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "a base folder holds one checkpoint" in ended.stderr
    assert Path(tmp_path).name in ended.stderr


@pytest.mark.slow
def test_from_an_upload_to_the_same_lora_though_the_worker_is_killed(body, clips, tmp_path, monkeypatch):
    """Through the queue, with real workers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ServerSettings(tmp_path / "server", devices=("cpu",), checkpoint_every=10)
    settings.folder.mkdir()
    database = SqliteDatabase(settings.database_address)
    store = Store(database)
    storage = Storage(settings.folder / "files", database, 1 << 20)

    async def upload():
        async def chunks():
            yield clips.read_bytes()

        return await storage.receive(storage.new("clips.zip", "application/zip", key_id="k"), chunks())

    async def until(holds):
        end = time.monotonic() + LIMIT
        while not holds():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)

    async def run():
        asked = {**body, "training_data_url": f"https://here.example{(await upload()).address}", "number_of_steps": 100}
        new = NewRequest(endpoint="t2a", mode="t2a", body=asked, key_id="k")
        first, second = (store.add_request(new).id for _ in range(2))
        local = partial(LocalPlacer, settings.base, settings.devices)
        serving = Workers(settings, store, storage, Retrying(Health()), lambda id: None, local)  # noqa: ARG005
        task = asyncio.create_task(serving.run())
        await until(lambda: store.request(first).state == State.DONE)
        await until(lambda: store.request(second).progress.get("steps") == 100)
        await until(lambda: store.request(second).progress.get("step", 0) >= 20)
        os.kill(serving._active[second].handle.process.pid, signal.SIGKILL)
        await until(lambda: store.request(second).state == State.DONE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return store.request(first), store.request(second)

    undisturbed, killed = asyncio.run(run())
    for done, attempts in ((undisturbed, 0), (killed, 1)):
        assert (done.result.status, done.result.billable_units, done.attempts) == (200, 100, attempts)
    for field in ("lora_file", "audio"):
        contents = [storage.local(f"http://x{r.result.body[field]['url']}").read_bytes() for r in (undisturbed, killed)]
        assert contents[0] == contents[1]
    assert killed.result.body["debug_dataset"]["content_type"] == "application/zip"
    assert [event.kind for event in store.events(killed.id)] == ["started", "crashed", "resumed", "finished"]
    lines = [line.message for line in store.logs(killed.id)]
    assert any("from step" in line for line in lines)
    assert any(line.startswith("step 100 of 100: loss") for line in lines)
    database.close()
