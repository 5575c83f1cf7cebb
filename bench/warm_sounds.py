"""How soon a warm worker answers a request for a sound, over the wire.

    python bench/warm_sounds.py

Starts a server of its own with `tiny` on the CPU, asks for sounds of 5 s with the default 30 steps and with 8, each
with a prompt of its own, and prints the time from submission to result and the processor time of server and worker. On
a machine with other things to do the second is the one to look at.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

REQUESTS = 5
ENDPOINT = "/run/fal-ai/ltx-2.3-quality/text-to-audio"


def processor_seconds(process: int) -> float:
    """Of a process and its children, the workers."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if process in (int(path.parent.name), int(fields[1])):
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        banner = Path(folder) / "banner.txt"
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", folder + "/server", "--port", "0"]
        with banner.open("w") as out:
            server = subprocess.Popen([*command, "--device", "cpu"], stdout=out, stderr=subprocess.DEVNULL)
        try:
            while not (key := re.search(r"^key: +(\S+)", banner.read_text(), re.MULTILINE)):
                time.sleep(0.1)
            address = re.search(r"serves at (\S+)", banner.read_text())
            assert address is not None
            head = {"Authorization": f"Key {key[1]}"}
            with httpx.Client(base_url=address[1], headers=head, timeout=600, trust_env=False) as client:
                client.post(ENDPOINT, json={"prompt": "the first one"}).raise_for_status()
                print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
                for steps in (None, 8):
                    measure(client, server.pid, steps)
        finally:
            server.terminate()
            server.wait()


def measure(client: httpx.Client, server: int, steps: int | None) -> None:
    body = {} if steps is None else {"num_inference_steps": steps}
    walls, processors = [], []
    for number in range(REQUESTS):
        began, used = time.monotonic(), processor_seconds(server)
        client.post(ENDPOINT, json={"prompt": f"rain, number {number}", **body}).raise_for_status()
        walls.append(time.monotonic() - began)
        processors.append(processor_seconds(server) - used)
    print(
        f"5 s of sound, {steps or 30} steps: {statistics.median(walls):.1f} s (of {REQUESTS}: {min(walls):.1f} to "
        f"{max(walls):.1f}), {statistics.median(processors):.1f} s of processor"
    )


if __name__ == "__main__":
    main()
