"""Two servers, their database and their object store, killed at random moments: is anything lost, doubled or different?

Run: python bench/cluster_kills.py [--kills 50] [--runs 12] [--seed 1] [--out DIR]

Needs PostgreSQL (apt-get install postgresql), moto[server] and boto3. All runs train the same, with a webhook each.
Every few seconds one of four things happens: the active server is killed and started again as the one that waits; a
worker is killed; PostgreSQL crashes and is restarted; the object store is away for a while. When all requests are done:
how many succeeded, how often each webhook came, and of how many files the LoRAs are. Out: `cluster_kills.json`.
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
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import httpx
import psutil
from botocore.exceptions import EndpointConnectionError

from server_load import archive

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from postgres_server import MISSING, programs, running

APP = "/fal-ai/ltx23-trainer-v2"
STEPS = 100
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
        while True:
            for server in self.servers:
                with suppress(httpx.HTTPError):
                    answer = self.http.request(method, f"http://127.0.0.1:{server.port}{path}", **more)
                    if answer.status_code < 500:
                        return answer
            time.sleep(0.2)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    dice = random.Random(options.seed)
    found = programs()
    assert found is not None, MISSING

    kills: Counter[str] = Counter()
    began = time.monotonic()
    with running(found) as postgres, tempfile.TemporaryDirectory() as temporary:
        ports = [postgres.port + offset for offset in (1, 2, 3)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")},
            "OMP_NUM_THREADS": "1",
            "AWS_ACCESS_KEY_ID": "studio",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        }
        s3 = start_s3(ports[0])
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
                break
            time.sleep(0.2)
        receiver, got = receive()
        served = ["--device", "cpu", "--database", postgres.new_database(), "--files", "s3://studio/one"]
        served += ["--checkpoint-every", "5", "--attempts", "1000", "--allow-private-webhooks"]
        servers = [Server(Path(temporary, "a"), ports[1], served, environment)]
        while not (key := re.search(r"^key: +(\S+)", (servers[0].folder / "out").read_text(), re.MULTILINE)):
            time.sleep(0.1)
        servers.append(Server(Path(temporary, "b"), ports[2], served, environment))
        cluster = Cluster(servers, key[1])
        head = {"content-type": "application/zip", "x-fal-file-name": "clips.zip"}
        data = cluster.call("POST", "/cdn/files/upload", content=archive(), headers=head).json()["access_url"]
        body = {"rank": 8, "number_of_steps": STEPS, "audio_duration_seconds": 0.5, "training_data_url": data}
        hook = {"fal_webhook": f"http://127.0.0.1:{receiver.server_port}/"}
        ids = []
        for _ in range(options.runs):
            answer = cluster.call("POST", f"{APP}/t2a", json=body, params=hook)
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["request_id"])
        wrong = Counter[str]()

        def done() -> list[str]:
            ended = []
            for id in ids:
                answer = cluster.call("GET", f"{APP}/requests/{id}/status")
                if answer.status_code not in (200, 202):
                    wrong[f"status {answer.status_code}"] += 1
                elif answer.json()["status"] == "COMPLETED":
                    ended.append(id)
            return ended

        try:
            while kills.total() < options.kills:
                time.sleep(dice.uniform(1.0, 6.0))
                what = dice.choice(["server", "server", "worker", "database", "object store"])
                server = cluster.active()
                if what == "server" and server is not None:
                    server.process.kill()
                    server.process.wait()
                    server.start()
                elif what == "worker" and server is not None and (workers := server.workers()):
                    with suppress(psutil.NoSuchProcess):
                        dice.choice(workers).send_signal(signal.SIGKILL)
                elif what == "database":
                    postgres.stop()
                    time.sleep(dice.uniform(0.0, 3.0))
                    postgres.start()
                elif what == "object store":
                    # Its content is in its memory, so it is stopped, not killed.
                    s3.send_signal(signal.SIGSTOP)
                    time.sleep(dice.uniform(1.0, 8.0))
                    s3.send_signal(signal.SIGCONT)
                else:
                    continue
                kills[what] += 1
                print(f"{time.monotonic() - began:6.1f} s  {what:<12}  {len(done())} of {len(ids)} done", flush=True)
                for one in servers:  # one that lost its turn stops by itself
                    if one.process.poll() is not None:
                        one.start()
            while len(done()) < len(ids):
                time.sleep(1.0)
                for one in servers:
                    if one.process.poll() is not None:
                        one.start()
            digests: Counter[str] = Counter()
            for id in ids:
                answer = cluster.call("GET", f"{APP}/requests/{id}")
                if answer.status_code != 200:
                    wrong[f"result {answer.status_code}: {answer.text[:200]}"] += 1
                    continue
                path = httpx.URL(answer.json()["lora_file"]["url"]).path
                digests[hashlib.sha256(cluster.call("GET", path).content).hexdigest()] += 1
            end = time.monotonic() + 60
            while len(got) < len(ids) and time.monotonic() < end:
                time.sleep(0.5)
            time.sleep(5)
            log = {one.folder.name: (one.folder / "log").read_text() for one in servers}
        finally:
            for one in servers:
                one.process.terminate()
            for one in servers:
                one.process.wait(60)
            s3.kill()
            s3.wait()
            receiver.shutdown()
    measured = {
        "kills": dict(kills),
        "runs": len(ids),
        "lora_files": len(digests),
        "loras": digests.total(),
        "webhooks_once": sum(count == 1 for count in got.values()),
        "webhooks_more_often": sum(count > 1 for count in got.values()),
        "wrong": dict(wrong),
        "tracebacks": sum(text.count("Traceback") for text in log.values()),
        "seconds": round(time.monotonic() - began),
    }
    (options.out / "cluster_kills.json").write_text(json.dumps(measured, indent=2) + "\n")
    for name, text in log.items():
        (options.out / f"cluster_kills_{name}.log").write_text(text)
    print(measured)


if __name__ == "__main__":
    main()
