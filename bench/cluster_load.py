"""The queue in PostgreSQL under load: what a claim and a status cost, and how that grows with the queue.

Run: python bench/cluster_load.py DATABASE [--queued 10000] [--owners 1] [--workers 200] [--seconds 20]
     [--out DIR]

DATABASE is an empty PostgreSQL database, as `--database` takes it, or the path of a SQLite file to compare with. The
store is filled in steps of a tenth of `--queued`; at each length claims and statuses are measured alone. Then
`--workers` simulated workers, which only report, write twice a second each while eight threads submit, claim and
finish, and a status is read a hundred times a second. Everything runs in this process, so its own processor's time is
part of what is measured. With several
`--owners` the order is that of fair share. Out: `cluster_load.json` and lines of Markdown.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sonolora.server.database.open_database import open_database
from sonolora.server.jobs.fair_share import ShareRules
from sonolora.server.jobs.records import NewRequest, Result
from sonolora.server.jobs.store import Store

NEW = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={"rank": 8, "number_of_steps": 1000})
RESULT = Result(status=200, body={"lora_file": None})
SUBMITTERS = 8


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def percentiles(times: list[float]) -> dict[str, float]:
    return {name: round(float(np.percentile(times, q)), 2) for name, q in (("p50", 50), ("p99", 99))}


def status(store: Store, id: str) -> None:
    """What a status call reads, but for the key."""
    store.request(id)
    store.queue_position(id)


def fill(store: Store, count: int, owners: int) -> list[str]:
    """Requests of so many owners, in turn."""

    def one(number: int) -> str:
        return store.add_request(replace(NEW, key_id=f"k{number % owners}")).id

    with ThreadPoolExecutor(SUBMITTERS) as threads:
        return list(threads.map(one, range(count)))


def by_length(store: Store, queued: int, owners: int) -> list[dict[str, Any]]:
    """Times of single calls at growing lengths of the queue, which is filled at the end."""
    ids: list[str] = []
    rows = []
    chance = random.Random(1)
    for _ in range(10):
        began = time.perf_counter()
        ids += fill(store, queued // 10, owners)
        submitted = queued // 10 / (time.perf_counter() - began)
        claims, statuses = [], []
        for _ in range(100):
            began = time.perf_counter()
            request = store.claim()
            claims.append(1000 * (time.perf_counter() - began))
            assert request is not None
            store.requeue(request.id, crashed=False)
            statuses.append(timed(partial(status, store, chance.choice(ids))))
        rows.append(
            {
                "queued": len(ids),
                "submitted_per_second": round(submitted, 1),
                "claim_ms": percentiles(claims),
                "status_ms": percentiles(statuses),
            }
        )
        print(rows[-1], flush=True)
    return rows


def together(store: Store, workers: int, seconds: float) -> dict[str, Any]:
    """Everything at once."""
    running = [request.id for _ in range(workers) if (request := store.claim())]
    end = time.monotonic() + seconds
    counts = {"claims": 0, "reports": 0}
    lock, statuses = threading.Lock(), list[float]()

    def count(name: str) -> None:
        with lock:
            counts[name] += 1

    def report(number: int) -> None:
        """Of `workers / SUBMITTERS` workers, each twice a second."""
        mine, step = running[number::SUBMITTERS], 0
        while time.monotonic() < end:
            due = time.monotonic() + 0.5
            step += 1
            for id in mine:
                store.record(id, progress={"phase": "training", "step": step}, metrics=[(step, {"loss": 0.5})])
                count("reports")
            time.sleep(max(0.0, due - time.monotonic()))

    def turn_over(_: int) -> None:
        while time.monotonic() < end:
            store.add_request(NEW)
            if (request := store.claim()) is not None:
                count("claims")
                store.finish(request.id, RESULT)

    def poll() -> None:
        chance = random.Random(2)
        while time.monotonic() < end:
            due = time.monotonic() + 0.01
            statuses.append(timed(lambda: status(store, chance.choice(running))))
            time.sleep(max(0.0, due - time.monotonic()))

    with ThreadPoolExecutor(2 * SUBMITTERS + 1) as threads:
        began = time.monotonic()
        tasks = [threads.submit(poll)]
        tasks += [threads.submit(call, number) for call in (report, turn_over) for number in range(SUBMITTERS)]
        for task in tasks:
            task.result()
        took = time.monotonic() - began
    return {
        "workers": len(running),
        "claimed_and_finished_per_second": round(counts["claims"] / took, 1),
        "reports_per_second": round(counts["reports"] / took, 1),
        "status_ms": percentiles(statuses),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("database")
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--owners", type=int, default=1)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    address = options.database if "://" in options.database else Path(options.database)
    with closing(open_database(address)) as database:
        store = Store(database, ShareRules(hours=24.0))
        assert not store.requests(limit=1), "give an empty database"
        rows = by_length(store, options.queued, options.owners)
        busy = together(store, options.workers, options.seconds)
    (options.out / "cluster_load.json").write_text(json.dumps({"by_length": rows, "busy": busy}, indent=2) + "\n")
    print(busy)
    print("\n| queued | submitted a second | claim p50 | p99 | status p50 | p99 |\n|---|---|---|---|---|---|")
    for row in rows:
        times = [row[name][q] for name in ("claim_ms", "status_ms") for q in ("p50", "p99")]
        print(f"| {row['queued']:,} | {row['submitted_per_second']} | {' | '.join(f'{one} ms' for one in times)} |")


if __name__ == "__main__":
    main()
