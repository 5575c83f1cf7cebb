"""How long hostile request bodies hold up other clients: `python bench/server_stalls.py`.

Starts a server of its own in a temporary folder, posts each body, and asks `/health` every few milliseconds meanwhile.
Prints for each body the status, the seconds until the answer, the seconds of the server's processor time, the size of
the answer, the longest answer of `/health`, and by how much the server's peak memory grew.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

PATH = "/fal-ai/ltx23-trainer-v2/audio-inpaint"
MIB = 1 << 20
SMALL = 120 << 10


def in_field(name: str, value: bytes) -> bytes:
    return b'{"training_data_url": "https://a.example/a.zip", "%s": %s}' % (name.encode(), value)


def array(item: bytes, size: int) -> bytes:
    return b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"


def bodies(largest: int) -> dict[str, bytes]:
    """By what they are; `largest` is the size in MiB of those that are large."""
    content = base64.b64encode(os.urandom(3 * largest * MIB // 4))
    entry = b'{"prompt": "", "audio_url": "https://a.example/a.wav", "time_ranges": %s}'
    return {
        "an ordinary request": in_field("rank", b"8"),
        "120 KiB of empty validation entries": in_field("validation", array(b"{}", SMALL)),
        "120 KiB of invalid time ranges": in_field("validation", b"[%s]" % (entry % array(b'"x"', SMALL))),
        "120 KiB of objects in an unknown field": in_field("x", array(b'{"a":{}}', SMALL)),
        "120 KiB of backslashes": in_field("x", b'"' + b"\\\\" * (SMALL // 2) + b'"'),
        "120 KiB of brackets": in_field("x", b"[" * (SMALL // 2) + b"]" * (SMALL // 2)),
        "1 MiB of empty validation entries": in_field("validation", array(b"{}", MIB)),
        f"{largest} MiB of integers": in_field("x", array(b"0", largest * MIB)),
        f"{largest} MiB of objects": in_field("x", array(b'{"a":{}}', largest * MIB)),
        f"{largest} MiB of text": in_field("x", b'"' + b"x" * (largest * MIB) + b'"'),
        f"{largest} MiB in a data: URI": b'{"training_data_url": "data:application/zip;base64,%s"}' % content,
        f"{largest} MiB in a data: URI, escaped": b'{"training_data_url": "data:application/zip;base64,%s"}'
        % content[: largest * MIB // 2].replace(b"A", b"\\u0041").replace(b"/", b"\\/"),
    }


class Server:
    """`sonolora serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(folder), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        banner = ""
        while "\n# curl\n" not in banner:
            banner += self.process.stdout.readline()
        self.port = int(re.search(r"serves at http://127\.0\.0\.1:(\d+)", banner)[1])
        self.key = re.search(r"^key: +(\S+)", banner, re.MULTILINE)[1]

    def memory(self) -> int:
        """The peak so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10

    def processor(self) -> float:
        """Seconds so far."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def post(self, body: bytes) -> tuple[str, int]:
        """The status and the size of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with suppress(BrokenPipeError, ConnectionResetError):  # answered before the end of the body
            connection.request("POST", PATH, body, {"Authorization": f"Key {self.key}"})
        try:
            answer = connection.getresponse()
            return str(answer.status), len(answer.read())
        except OSError:
            return "cut off", 0
        finally:
            connection.close()


class Watch(threading.Thread):
    """Asks `/health` all the time."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port, self.longest, self.ended = port, 0.0, threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        while not self.ended.wait(0.005):
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            self.longest = max(self.longest, time.perf_counter() - began)
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--largest", type=int, default=60, help="MiB")
    parser.add_argument("--only", default="", help="of the bodies, those with this in their names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            print(f"{'':52} status  answered  processor  size of answer  /health within  memory")
            for name, body in bodies(arguments.largest).items():
                for count in (1, 20) if len(body) < MIB else (1,):
                    if arguments.only not in name:
                        continue
                    watch, before = Watch(server.port), server.memory()
                    watch.start()
                    time.sleep(0.5)
                    began, used = time.perf_counter(), server.processor()
                    with ThreadPoolExecutor(count) as clients:
                        answers = list(clients.map(server.post, [body] * count))
                    seconds = time.perf_counter() - began
                    watch.ended.set()
                    watch.join()
                    status, size = answers[-1]
                    used = server.processor() - used
                    grown = (server.memory() - before) / MIB
                    print(
                        f"{name + (f', {count} at once' if count > 1 else ''):52} {status:>6} {seconds:7.2f} s "
                        f"{used:8.2f} s {size:13,} B {1000 * watch.longest:11,.0f} ms {grown:6,.0f} MiB",
                        flush=True,
                    )
        finally:
            server.process.terminate()
            server.process.wait(60)


if __name__ == "__main__":
    main()
