"""Two servers of one database and one object store: the second takes over, and the run goes on to the same LoRA."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time

import httpx
import pytest
from s3_server import BUCKET, running_s3

APP = "/fal-ai/ltx23-trainer-v2"
STEPS, KILLED_AT = 120, 30


class Server:
    """The command in a folder of its own."""

    def __init__(self, folder, *options):
        folder.mkdir()
        self.folder, self.key = folder, ""
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(folder), "--port", "0", "--device", "cpu"]
        with (folder / "out").open("w") as out, (folder / "log").open("w") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen([*command, *options], stdout=out, stderr=log, env=environment)

    def wait_for(self, pattern, seconds=120.0):
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, (self.folder / "out").read_text(), re.MULTILINE)):
            assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)
        return match[1]

    def client(self, key):
        base = self.wait_for(r"serves at (\S+)")
        return httpx.Client(base_url=base, headers={"Authorization": f"Key {key}"}, timeout=60, trust_env=False)


@pytest.mark.slow
@pytest.mark.xdist_group("postgres")
def test_a_killed_server_is_replaced_and_its_run_goes_on(tmp_path, postgres, clips):
    with running_s3():
        options = ["--database", postgres.new_database(), "--files", f"s3://{BUCKET}/one", "--checkpoint-every", "10"]
        first = Server(tmp_path / "first", *options)
        key = first.wait_for(r"^key: +(\S+)")
        second = Server(tmp_path / "second", *options)
        second.wait_for("(another server works on)")
        try:
            client = first.client(key)
            head = {"content-type": "application/zip", "x-fal-file-name": "clips.zip"}
            content = (clips / "clips.zip").read_bytes()
            data = client.post("/cdn/files/upload", content=content, headers=head).json()["access_url"]
            body = {"rank": 8, "number_of_steps": STEPS, "audio_duration_seconds": 0.5, "training_data_url": data}
            ids = [client.post(f"{APP}/t2a", json=body).json()["request_id"] for _ in range(2)]

            def step():
                progress = client.get(f"/api/runs/{ids[0]}").json()["progress"] or {}
                return progress.get("step", 0) if progress.get("phase") == "training" else 0

            while step() < KILLED_AT:
                time.sleep(0.2)
            time.sleep(3)  # what was made is copied every two seconds
            first.process.kill()
            killed = time.monotonic()
            client.close()
            client = second.client(key)
            assert time.monotonic() - killed < 10
            digests = []
            for id in ids:
                while client.get(f"{APP}/requests/{id}/status").json()["status"] != "COMPLETED":
                    time.sleep(0.5)
                result = client.get(f"{APP}/requests/{id}").json()
                digests.append(hashlib.sha256(httpx.get(result["lora_file"]["url"], trust_env=False).content).digest())
            log = [line["message"] for line in client.get(f"/api/runs/{ids[0]}/log").json()["log"]]
            assert [message for message in log if message in ("started", "resumed")] == ["started", "resumed"]
            assert digests[0] == digests[1], "as that of the run that was not disturbed"
            client.close()
        finally:
            for server in (first, second):
                server.process.terminate()
                server.process.wait(60)
