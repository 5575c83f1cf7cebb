"""Many clients that poll while a training runs: what a status call takes, and what the training pays for it.

Run: python bench/server_load.py [--requests 1000] [--clients 100] [--hertz 10] [--seconds 30] [--out DIR]

A server of its own, in a folder of its own, at 127.0.0.1. One run trains; the requests wait behind it. Its steps are
counted over three windows of the same length: alone, while every client asks on its own connection for the status of
requests drawn at random, and alone again. The clients keep to a timetable, and a call's time counts from the moment it
was due, so that a slow server is not asked less often. They run on the same machine, in this process, and their share
of it is told. Out: `server_load.json` and `server_load.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import wave
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import uvloop

from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.records import State
from sonolora.server.jobs.store import Store

APP = "/fal-ai/ltx23-trainer-v2"
# Long enough to be running still when everything is measured.
BODY = {"rank": 8, "number_of_steps": 20_000, "audio_duration_seconds": 0.5}


@dataclass(frozen=True)
class Measured:
    """Times in milliseconds, shares of one core."""

    requests: int
    clients: int
    hertz: float
    seconds: float
    submitted_per_second: float
    calls_per_second: float
    calls: int
    errors: int
    p50: float
    p99: float
    longest: float
    server_core: float
    server_per_call: float  # of its processor's time, which other work on the machine changes least
    clients_core: float
    steps_per_second_before: float
    steps_per_second_polled: float
    steps_per_second_after: float
    slowed_by: float  # share of the steps of the windows beside
    cores: int
    load_before: float  # of the machine, over a minute


class Connection:
    """HTTP/1.1 by hand: what a client library costs would be measured instead."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Key {self.key}\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(re.search(rb"content-length: (\d+)", answer)[1])
        return int(answer[9:12]), await self.reader.readexactly(length)


async def submit(port: int, key: str, count: int) -> tuple[list[str], float]:
    """The ids, and how many were taken a second, over eight connections."""
    ids: list[str] = []
    left = iter(range(count))
    body = json.dumps({**BODY, "training_data_url": "https://192.0.2.1/clips.zip"}).encode()

    async def one() -> None:
        connection = Connection(port, key)
        await connection.open()
        for _ in left:
            status, answer = await connection.call("POST", f"{APP}/t2a", body)
            assert status == 200, answer
            ids.append(json.loads(answer)["request_id"])

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(8)))
    return ids, count / (time.monotonic() - began)


async def poll(
    port: int, key: str, ids: list[str], clients: int, hertz: float, seconds: float
) -> tuple[list[float], Counter[str]]:
    """The time of every call in seconds, and what went wrong how often."""
    times: list[float] = []
    wrong: Counter[str] = Counter()
    begin = time.monotonic()

    async def client(number: int) -> None:
        chance = random.Random(number)
        connection = Connection(port, key)
        await connection.open()
        due = begin + number / clients / hertz  # not all at once
        while due < begin + seconds:
            await asyncio.sleep(due - time.monotonic())
            id = chance.choice(ids)
            try:
                status, answer = await connection.call("GET", f"{APP}/requests/{id}/status")
                if status not in (200, 202) or json.loads(answer)["request_id"] != id:
                    wrong[str(status)] += 1
            except (OSError, EOFError) as error:
                wrong[type(error).__name__] += 1
                await connection.open()
            times.append(time.monotonic() - due)
            due += 1 / hertz

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times, wrong


class Training:
    """The steps of the one run that trains, as the store has them."""

    def __init__(self, store: Store, id: str) -> None:
        self.store, self.id = store, id

    def step(self) -> int:
        progress = self.store.request(self.id).progress
        return progress["step"] if progress.get("phase") == "training" else 0

    async def next_step(self) -> tuple[int, float]:
        """Progress comes twice a second; when the next comes is a sharper moment than now."""
        step = self.step()
        while (found := self.step()) == step:
            await asyncio.sleep(0.01)
        return found, time.monotonic()


async def measure(folder: Path, port: int, key: str, server: int, options: argparse.Namespace, load: float) -> Measured:
    database = SqliteDatabase(folder / "server.db")
    store = Store(database)
    base = f"http://127.0.0.1:{port}"
    head = {"Authorization": f"Key {key}", "Content-Type": "application/zip", "X-Fal-File-Name": "clips.zip"}
    data = httpx.post(f"{base}/files/upload", content=archive(), headers=head, trust_env=False).json()["access_url"]
    first = httpx.post(
        f"{base}{APP}/t2a", json={**BODY, "training_data_url": data}, headers={"Authorization": f"Key {key}"},
        trust_env=False,
    ).json()["request_id"]  # fmt: skip
    training = Training(store, first)
    while training.step() < 50:
        assert store.request(first).state != State.DONE, store.request(first).result
        await asyncio.sleep(0.1)
    ids, submitted = await submit(port, key, options.requests)

    marks = [await training.next_step()]
    await asyncio.sleep(options.seconds)
    marks.append(await training.next_step())
    used = core_seconds(server), own_seconds()
    began = time.monotonic()
    times, wrong = await poll(port, key, [first, *ids], options.clients, options.hertz, options.seconds)
    took = time.monotonic() - began  # longer than the timetable when the machine cannot keep up
    used = core_seconds(server) - used[0], own_seconds() - used[1]
    marks.append(await training.next_step())
    await asyncio.sleep(options.seconds)
    marks.append(await training.next_step())
    assert store.request(first).state == State.RUNNING, "the training ended too soon: fewer seconds, or more steps"
    waiting = len(store.requests(state=State.QUEUED, limit=options.requests + 10))
    database.close()
    assert waiting == options.requests, f"{waiting} wait"
    if wrong:
        print("wrong:", dict(wrong))
    before, polled, after = ((b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(marks))
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return Measured(
        requests=options.requests,
        clients=options.clients,
        hertz=options.hertz,
        seconds=options.seconds,
        submitted_per_second=round(submitted, 1),
        calls_per_second=round(len(times) / took, 1),
        calls=len(times),
        errors=wrong.total(),
        p50=round(float(p50), 2),
        p99=round(float(p99), 2),
        longest=round(max(times) * 1000, 2),
        server_core=round(used[0] / took, 3),
        server_per_call=round(1000 * used[0] / len(times), 3),
        clients_core=round(used[1] / took, 3),
        steps_per_second_before=round(before, 2),
        steps_per_second_polled=round(polled, 2),
        steps_per_second_after=round(after, 2),
        slowed_by=round(1 - 2 * polled / (before + after), 4),
        cores=os.cpu_count() or 0,
        load_before=round(load, 2),
    )


def archive() -> bytes:
    """Two clips of 0.6 s."""
    made, moments = io.BytesIO(), np.arange(9600) / 16000
    with zipfile.ZipFile(made, "w") as zipped:
        for pitch in (300, 500):
            clip = io.BytesIO()
            with wave.open(clip, "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes((9000 * np.sin(2 * np.pi * pitch * moments)).astype("<i2").tobytes())
            zipped.writestr(f"{pitch}.wav", clip.getvalue())
            zipped.writestr(f"{pitch}.txt", f"a tone of {pitch} Hz")
    return made.getvalue()


def core_seconds(process: int) -> float:
    """Of a process, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_words(measured: Measured) -> str:
    """A paragraph of markdown."""
    one = measured
    return (
        f"{one.requests:,} requests waited ({one.submitted_per_second:,.0f} a second were taken) and {one.clients} "
        f"clients asked for their status {one.hertz:g} times a second each, for {one.seconds:g} s, beside a training. "
        f"{one.calls_per_second:,.0f} calls a second were answered, {one.errors} of {one.calls:,} wrongly; half within "
        f"{one.p50:.1f} ms, 99 % within {one.p99:.1f} ms, all within {one.longest:.0f} ms. The server took "
        f"{100 * one.server_core:.0f} % of a core, {one.server_per_call:.2f} ms a call, the clients "
        f"{100 * one.clients_core:.0f} %. The training made "
        f"{one.steps_per_second_polled:.1f} steps a second, {one.steps_per_second_before:.1f} before and "
        f"{one.steps_per_second_after:.1f} after it: {100 * one.slowed_by:.0f} % fewer. Machine: {one.cores} cores, "
        f"load {one.load_before:.1f} before the start.\n"
    )


def main() -> None:
    """Start the server, measure, write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--hertz", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    load = os.getloadavg()[0]
    mine = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "server.toml").write_text(f"queue_limit = {options.requests + 1}\n")
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", temporary, "--port", "0", "--device", "cpu"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**mine, "OMP_NUM_THREADS": "1"}
        ) as server:
            try:
                said = ""
                while not re.search(r"^key: +.*\n", said, re.MULTILINE):
                    line = server.stdout.readline()
                    assert line, "the server did not start"
                    said += line
                port = int(re.search(r"serves at \S+:(\d+)", said)[1])
                key = re.search(r"^key: +(\S+)", said, re.MULTILINE)[1]
                measured = uvloop.run(measure(folder, port, key, server.pid, options, load))
            finally:
                server.terminate()
    (options.out / "server_load.json").write_text(json.dumps(asdict(measured), indent=2) + "\n")
    (options.out / "server_load.md").write_text(in_words(measured))
    print(in_words(measured))


if __name__ == "__main__":
    main()
