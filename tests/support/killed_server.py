"""A server in a process of its own, for tests that kill it and what it has started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.records import State
from sonolora.server.jobs.store import Store

LIMIT = 600  # seconds for anything to happen, on a busy machine
SHORT = {"rank": 8, "number_of_steps": 100, "audio_duration_seconds": 0.5}


class Server:
    """`sonolora serve` in a folder with settings and options, started again whenever it was killed."""

    def __init__(self, folder: Path, settings: str, *options: str) -> None:
        self.folder, self.options = folder, options
        folder.mkdir()
        (folder / "server.toml").write_text(settings)
        self.start()
        self.key = re.search(r"^key: +(\S+)", self.said(), re.MULTILINE)[1]
        self.database = SqliteDatabase(folder / "server.db")
        self.store = Store(self.database)

    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    def start(self) -> None:
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(self.folder), "--port", "0"]
        mine = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
        with (self.folder / "said.txt").open("w") as out, (self.folder / "log.txt").open("a") as errors:
            self.process = subprocess.Popen(
                [*command, *self.options], stdout=out, stderr=errors, env={**mine, "OMP_NUM_THREADS": "1"}
            )
        wait_until(lambda: re.search(r"^keys?: .*\n", self.said(), re.MULTILINE) or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "log.txt").read_text()
        self.address = re.search(r"serves at (\S+)", self.said())[1]

    def post(self, path: str, **what: object) -> httpx.Response:
        head = {"Authorization": f"Key {self.key}", **what.pop("headers", {})}
        answer = httpx.post(self.address + path, headers=head, timeout=60, trust_env=False, verify=False, **what)
        assert answer.status_code == 200, answer.text
        return answer

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self, what: str) -> None:
        """The server, which is started again; or its worker; or both, as a power cut would."""
        workers = self.workers() if what != "server" else []
        if what != "worker":
            self.process.kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        if what != "worker":
            self.process.wait()
            self.start()

    def file(self, id: str) -> bytes:
        """The LoRA of a request that is over."""
        result = self.store.request(id).result
        assert result.status == 200, result
        return httpx.get(self.address + result.body["lora_file"]["url"], trust_env=False, verify=False).content

    def goes(self) -> int:
        """How often a worker has begun or gone on with anything."""
        ids = [request.id for request in self.store.requests()]
        return sum(event.kind in ("started", "resumed") for id in ids for event in self.store.events(id))

    def all_done(self) -> bool:
        return all(request.state == State.DONE for request in self.store.requests())


def wait_until(holds, seconds: float = LIMIT) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
