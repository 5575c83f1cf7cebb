"""A Ray cluster of processes on this machine, for benchmarks that kill its parts: a head, and nodes of one CPU.

In: a folder. Out: the address of the head. Each part is `ray start --block`, which `keep` starts again when it has
ended. Whatever is started has a mark in its environment, by which it is counted, and killed at the end.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "SONOLORA_BENCH"
# How soon a node counts as dead, and how soon a node gives up a head that is gone.
FAST = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}


def marked(mark: str) -> list[psutil.Process]:
    """The processes that were started with a mark, but this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def kill_marked(mark: str) -> None:
    for process in marked(mark):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
            process.kill()


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process with all that it has started."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    return []


class RayProcesses:
    def __init__(self, folder: Path, port: int, environment: Mapping[str, str], nodes: int) -> None:
        self.address, self.port, self.folder = f"127.0.0.1:{port}", port, folder
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {**environment, **self.token, **FAST, "RAY_USAGE_STATS_ENABLED": "0"}
        self.temporary = Path("/tmp", f"ray-{port}")  # short: it holds sockets
        self.head = self._start_head()
        self.nodes = {f"node-{number}": self._start_node(f"node-{number}") for number in range(nodes)}

    def keep(self) -> None:
        """Start again what has ended."""
        if self.head.poll() is not None:
            self.head = self._start_head()
        for name, process in self.nodes.items():
            if process.poll() is not None:
                self.nodes[name] = self._start_node(name)

    def stop(self) -> None:
        for process in (*self.nodes.values(), self.head):
            kill_all(tree(process))
            process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _start_head(self) -> subprocess.Popen[bytes]:
        options = ("--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false")
        return self._start("head", *options, f"--temp-dir={self.temporary}")

    def _start_node(self, name: str) -> subprocess.Popen[bytes]:
        return self._start(name, f"--address={self.address}", "--num-cpus=1")

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        command = [ray, "start", "--block", f"--node-name={name}", "--object-store-memory=80000000", *options]
        environment = {**self.environment, "SONOLORA_NODE_FOLDER": str(self.folder / name)}
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def kill_all(processes: list[psutil.Process]) -> None:
    """All of them, as a power cut would."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
