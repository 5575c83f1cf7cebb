"""Two servers, their database and their object store, killed at random moments: is anything lost, doubled or different?

Run: python bench/cluster_kills.py [--placer ray] [--kills 50] [--runs 12] [--minutes 45] [--seed 1] [--out DIR]

Needs PostgreSQL (apt-get install postgresql), moto[server] and boto3, and for --placer ray Ray. All runs train the
same, with a webhook each; the first is left in peace. Then every few seconds one thing happens: the active server is
killed and started again as the one that waits; PostgreSQL crashes and is restarted; the object store is away for up to
a minute; with local workers, a worker is killed; with Ray, a node is killed with all its processes, or stands still for
a while and goes on, or the head of the cluster is killed. When all requests are done: how many succeeded, how often
each webhook came, of how many files the LoRAs are, and what the database says. Out: `cluster_kills.json`.

It starts no more than 120 processes, makes no more kills after --minutes, waits 15 minutes longer for the rest, and
kills what it has started.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import httpx
import psutil
from botocore.exceptions import EndpointConnectionError

from ray_processes import MARK, RayProcesses, kill_all, kill_marked, marked, tree
from server_load import archive
from sonolora.server.database.open_database import open_database
from sonolora.server.jobs.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from postgres_server import MISSING, PostgresServer, programs, running

APP = "/fal-ai/ltx23-trainer-v2"
MAX_PROCESSES = 120
LAST_SECONDS = 900.0  # for what is left after the last kill
S3 = """
import logging, sys, time
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
time.sleep(1e6)
"""


class Server:
    """`sonolora serve` in a folder of its own."""

    def __init__(self, folder: Path, port: int, options: list[str], environment: dict[str, str]) -> None:
        self.folder, self.port, self.options, self.environment = folder, port, options, environment
        folder.mkdir()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(self.folder), "--port", str(self.port)]
        with (self.folder / "out").open("a") as out, (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=out, stderr=log, env=self.environment)

    def workers(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []


class Cluster:
    """Asks whichever server is active."""

    def __init__(self, servers: list[Server], key: str) -> None:
        self.servers = servers
        self.http = httpx.Client(headers={"Authorization": f"Key {key}"}, timeout=10, trust_env=False)

    def active(self) -> Server | None:
        for server in self.servers:
            with suppress(httpx.HTTPError):
                self.http.get(f"http://127.0.0.1:{server.port}/openapi.json")
                return server
        return None

    def call(self, method: str, path: str, **more: object) -> httpx.Response:
        """Until a server answers with anything but that it waits for something."""
        end = time.monotonic() + LAST_SECONDS
        while time.monotonic() < end:
            for server in self.servers:
                with suppress(httpx.HTTPError):
                    answer = self.http.request(method, f"http://127.0.0.1:{server.port}{path}", **more)
                    if answer.status_code < 500:
                        return answer
            time.sleep(0.2)
        raise TimeoutError(f"no server answers {path}")


def receive() -> tuple[ThreadingHTTPServer, Counter[str]]:
    """A receiver of webhooks, and how often it had which request."""
    got: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request_id"]] += 1
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, got


def start_s3(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", S3, str(port)], stderr=subprocess.DEVNULL)


class Kills:
    """What can happen. Each returns whether it did."""

    def __init__(
        self,
        dice: random.Random,
        cluster: Cluster,
        postgres: PostgresServer,
        s3: subprocess.Popen[bytes],
        ray: RayProcesses | None,
    ) -> None:
        self.dice, self.cluster, self.postgres, self.s3, self.ray = dice, cluster, postgres, s3, ray
        self._asleep: list[list[psutil.Process]] = []

    def kinds(self) -> dict[str, Callable[[], bool]]:
        common = {"server": self.server, "database": self.database, "object store": self.store}
        if self.ray is None:
            return {**common, "worker": self.worker}
        return {**common, "node": self.node, "node stands still": self.still, "head": self.head}

    def keep(self) -> None:
        """Start again what has ended, as a supervisor would."""
        for server in self.cluster.servers:  # one that lost its turn stops by itself
            if server.process.poll() is not None:
                server.start()
        if self.ray is not None:
            self.ray.keep()

    def server(self) -> bool:
        if (server := self.cluster.active()) is None:
            return False
        server.process.kill()
        server.process.wait()
        server.start()
        return True

    def worker(self) -> bool:
        server = self.cluster.active()
        if server is None or not (workers := server.workers()):
            return False
        with suppress(psutil.NoSuchProcess):
            self.dice.choice(workers).send_signal(signal.SIGKILL)
        return True

    def database(self) -> bool:
        self.postgres.stop()
        time.sleep(self.dice.uniform(0.0, 3.0))
        self.postgres.start()
        return True

    def store(self) -> bool:
        # Its content is in its memory, so it is stopped, not killed.
        return self._sleep([psutil.Process(self.s3.pid)], self.dice.uniform(1.0, 60.0))

    def node(self) -> bool:
        assert self.ray is not None
        kill_all(tree(self.dice.choice(list(self.ray.nodes.values()))))
        return True

    def still(self) -> bool:
        assert self.ray is not None
        return self._sleep(tree(self.dice.choice(list(self.ray.nodes.values()))), self.dice.uniform(5.0, 40.0))

    def head(self) -> bool:
        assert self.ray is not None
        kill_all(tree(self.ray.head))
        self.ray.head.wait()
        return True

    def _sleep(self, processes: list[psutil.Process], seconds: float) -> bool:
        """They go on after so long, whatever happens meanwhile."""
        if any(set(processes) & set(others) for others in self._asleep):
            return False

        def send(number: signal.Signals) -> None:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

        def wake() -> None:
            send(signal.SIGCONT)
            self._asleep.remove(processes)

        self._asleep.append(processes)
        send(signal.SIGSTOP)
        timer = threading.Timer(seconds, wake)
        timer.daemon = True
        timer.start()
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--placer", choices=("local", "ray"), default="local")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pause", type=float, default=12.0, help="longest time between two kills, in seconds")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    found = programs()
    assert found is not None, MISSING
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    try:
        with running(found) as postgres, tempfile.TemporaryDirectory() as temporary:
            measured, logs = carry_out(options, postgres, Path(temporary), mark)
    finally:
        kill_marked(mark)
    (options.out / "cluster_kills.json").write_text(json.dumps(measured, indent=2) + "\n")
    for name, text in logs.items():
        (options.out / f"cluster_kills_{name}.log").write_text(text)
    print(measured)


def carry_out(
    options: argparse.Namespace, postgres: PostgresServer, folder: Path, mark: str
) -> tuple[dict[str, object], dict[str, str]]:
    """What was measured, and the logs of the servers."""
    dice, began = random.Random(options.seed), time.monotonic()
    ports = [postgres.port + offset for offset in (1, 2, 3, 4)]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")},
        "OMP_NUM_THREADS": "1",
        "AWS_ACCESS_KEY_ID": "studio",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
    }
    s3 = start_s3(ports[0])
    make_bucket(environment)
    receiver, got = receive()
    database = postgres.new_database()
    served = ["--database", database, "--files", "s3://studio/one", "--allow-private-webhooks"]
    served += ["--checkpoint-every", "10", "--attempts", "1000"]
    ray = None
    if options.placer == "ray":
        ray = RayProcesses(folder, ports[3], environment, nodes=2)
        served += ["--placer", "ray", "--ray-address", ray.address]
        environment = ray.environment
    else:
        served += ["--device", "cpu"]
    servers = [Server(folder / "a", ports[1], served, environment)]
    while not (key := re.search(r"^key: +(\S+)", (servers[0].folder / "out").read_text(), re.MULTILINE)):
        assert servers[0].process.poll() is None, (servers[0].folder / "log").read_text()
        time.sleep(0.1)
    servers.append(Server(folder / "b", ports[2], served, environment))
    cluster = Cluster(servers, key[1])
    head = {"content-type": "application/zip", "x-fal-file-name": "clips.zip"}
    data = cluster.call("POST", "/cdn/files/upload", content=archive(), headers=head).json()["access_url"]
    body = {"rank": 8, "number_of_steps": options.steps, "audio_duration_seconds": 0.5, "training_data_url": data}
    hook = {"fal_webhook": f"http://127.0.0.1:{receiver.server_port}/"}
    wrong, kills, ids = Counter[str](), Counter[str](), list[str]()

    def submit() -> None:
        answer = cluster.call("POST", f"{APP}/t2a", json=body, params=hook)
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["request_id"])

    def done() -> int:
        ended = 0
        for id in ids:
            answer = cluster.call("GET", f"{APP}/requests/{id}/status")
            if answer.status_code not in (200, 202):
                wrong[f"status {answer.status_code}"] += 1
            ended += answer.status_code in (200, 202) and answer.json()["status"] == "COMPLETED"
        return ended

    def tell(what: str) -> None:
        processes = len(marked(mark))
        print(
            f"{time.monotonic() - began:6.1f} s  {what:<18} {done()} of {len(ids)} done, {processes} processes",
            flush=True,
        )
        if processes > MAX_PROCESSES:
            raise RuntimeError(f"{processes} processes: more than there should be")

    happen = Kills(dice, cluster, postgres, s3, ray)

    def until_all_done() -> None:
        end = time.monotonic() + LAST_SECONDS
        while done() < len(ids) and time.monotonic() < end:
            time.sleep(2.0)
            happen.keep()

    try:
        submit()
        until_all_done()
        tell("undisturbed")
        for _ in range(options.runs):
            submit()
        kinds, next_ones = happen.kinds(), list[str]()
        while kills.total() < options.kills and time.monotonic() - began < 60 * options.minutes:
            time.sleep(dice.uniform(1.0, options.pause))
            happen.keep()
            next_ones = next_ones or dice.sample(list(kinds), len(kinds))
            what = next_ones.pop()
            if kinds[what]():
                kills[what] += 1
                tell(what)
            if done() == len(ids):  # there is always something to interrupt
                submit()
        until_all_done()
        tell("the end")
        digests: Counter[str] = Counter()
        for id in ids:
            answer = cluster.call("GET", f"{APP}/requests/{id}")
            if answer.status_code != 200:
                wrong[f"result {answer.status_code}: {answer.text[:200]}"] += 1
                continue
            path = httpx.URL(answer.json()["lora_file"]["url"]).path
            digests[hashlib.sha256(cluster.call("GET", path).content).hexdigest()] += 1
        end = time.monotonic() + 120
        while len(got) < len(ids) and time.monotonic() < end:
            time.sleep(0.5)
        time.sleep(5)
        store = Store(open_database(database))
        events = {id: Counter(event.kind for event in store.events(id)) for id in ids}
        billed = store.billed()
        requests = {request.id for request in store.requests(limit=1_000_000)}
        logs = {one.folder.name: (one.folder / "log").read_text() for one in servers}
    finally:
        for one in servers:
            one.process.terminate()
        for one in servers:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(60)
        if ray is not None:
            ray.stop()
        s3.kill()
        s3.wait()
        receiver.shutdown()
    return {
        "placer": options.placer,
        "kills": dict(kills),
        "all_kills": kills.total(),
        "runs": len(ids),
        "requests_lost": len(set(ids) - requests),
        "requests_more": len(requests - set(ids)),
        "lora_files": len(digests),
        "loras": digests.total(),
        "finished_once": sum(kinds["finished"] == 1 for kinds in events.values()),
        "events": dict(sum(events.values(), Counter())),
        "billed": [[mode, int(runs), int(steps)] for mode, runs, steps in billed],
        "webhooks_once": sum(count == 1 for count in got.values()),
        "webhooks_more_often": sum(count > 1 for count in got.values()),
        "wrong": dict(wrong),
        "tracebacks": sum(text.count("Traceback") for text in logs.values()),
        "seconds": round(time.monotonic() - began),
    }, logs


def make_bucket(environment: dict[str, str]) -> None:
    """Once the object store answers."""
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="studio",
        aws_secret_access_key="secret",
    )
    while True:
        with suppress(EndpointConnectionError):
            client.create_bucket(Bucket="studio")
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
