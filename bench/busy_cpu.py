"""A training step beside a busy neighbour: with threads that spin while they wait, and with threads that sleep.

    python bench/busy_cpu.py --rounds 3

Each round runs the same steps of the embedded base in two new processes, one of each kind, beside neighbours that keep
every core busy; kinds take turns in being first. The command sleeps by itself (core/threads.py); spinning is what
OpenMP does where nothing is set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from sonolora.core.threads import WAITING, usable_cpus

KINDS = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {}}  # libgomp's own count where nothing is set
_BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--neighbours", type=int, default=usable_cpus(), help="busy processes; default: one a core")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with neighbours(options.neighbours):
        for number in range(options.rounds):
            for kind in sorted(KINDS, reverse=bool(number % 2)):
                results[kind].append(measure(kind, options.steps))
                print(f"round {number + 1}, {kind}: {results[kind][-1][0]:.1f} ms per step", file=sys.stderr)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{usable_cpus()} cores, {options.neighbours} busy neighbours{load}; medians of {options.rounds} rounds\n")
    print("| waiting threads | ms per step | CPU seconds of the process |\n|---|---:|---:|")
    for kind, rounds in results.items():
        print(f"| {kind} | {median(step for step, _ in rounds):.1f} | {median(cpu for _, cpu in rounds):.1f} |")
    ratio = median(a / b for (a, _), (b, _) in zip(results["spinning"], results["sleeping"], strict=True))
    print(f"\nA step takes {ratio:.2f} times as long with spinning threads (median of the rounds).")


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that do nothing but keep a core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(kind: str, steps: int) -> tuple[float, float]:
    """Milliseconds of a step, and the CPU seconds of the whole process."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "step.json"
        command = ["bench", "step", "--device", "cpu", "--steps", str(steps), "--json", str(record)]
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "sonolora", *command], env=environment, stdout=subprocess.DEVNULL, check=True
        )
        after = os.times()
        step = json.loads(record.read_text())["phases"]["step"]["median_ms"]
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return float(step), cpu


if __name__ == "__main__":
    main()
