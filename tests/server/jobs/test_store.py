from __future__ import annotations

import math
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from sonolora.server.database.database import Database
from sonolora.server.database.open_database import open_database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.database.tables import requests
from sonolora.server.jobs.fair_share import ShareRules
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest, Result, State
from sonolora.server.jobs.store import QueueFullError, Store


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def new(**fields: object) -> NewRequest:
    return NewRequest(**{"endpoint": "t2a", "mode": "t2a", "key_id": "k", "body": {"rank": 8}} | fields)  # type: ignore[arg-type]


def result(**fields: object) -> Result:
    return Result(**{"status": 200, "body": {"lora_file": None}} | fields)  # type: ignore[arg-type]


def claim_all(store: Store) -> list[str]:
    claimed = []
    while request := store.claim():
        claimed.append(request.id)
    return claimed


class TestRequests:
    def test_everything_comes_back_as_it_went_in_also_after_reopening(self, store: Store, database: Database) -> None:
        body = {"prompt": "tūba \ud800 \0 \U0001d11e", "n": 1e-7, "none": None, "list": [1, [True, "12"]]}
        request = store.add_request(
            new(
                endpoint="ic-lora/a2a",
                mode="a2a",
                body=body,
                priority=1,
                start_deadline=2e9,
                webhook="https://e/hook?a=b&c=ü",
                lifetime=3600.5,
                no_retry=True,
            )
        )
        assert request.state is State.QUEUED
        assert abs(request.created - time.time()) < 5
        assert store.request(request.id) == request
        assert store.body(request.id) == body
        store.record(request.id, progress={"phase": "training", "step": 3})
        answer = result(
            status=422,
            body={"detail": [{"loc": ["body", "rank"], "msg": "\udcff"}]},
            error="no",
            error_type="x",
            inference_time=1.5,
            headers={"a": "b"},
        )
        assert store.finish(request.id, answer)
        with closing(open_database(database.address)) as again:
            found = Store(again).request(request.id)
        assert found
        assert (found.state, found.result) == (State.DONE, answer)
        assert found.progress == {"phase": "training", "step": 3}
        assert found.no_retry is True and found.cancel_requested is False
        assert found.finished and found.finished >= found.created

    @pytest.mark.parametrize("body", [None, 12, "12", "null", True, [], {}])
    def test_any_json_may_be_the_body_of_a_result(self, store: Store, body: object) -> None:
        id = store.add_request(new()).id
        store.finish(id, result(body=body))
        found = store.request(id)
        assert found and found.result and found.result.body == body

    @pytest.mark.parametrize("id", ["", "?", "\0", "é", "\udcff", "1e5", "%", "' OR 1 --", "x" * 10_000])
    def test_unknown_ids_find_and_change_nothing(self, store: Store, id: str) -> None:
        assert store.request(id) is None and store.body(id) is None
        assert store.queue_position(id) == 0
        assert store.request_cancel(id) is None
        assert not store.finish(id, result())
        store.requeue(id, crashed=True)
        store.record(id, progress={})
        assert store.logs(id) == [] and store.metrics(id) == [] and store.events(id) == []
        assert store.claim() is None

    def test_lists_the_newest_first_in_pages(self, store: Store) -> None:
        added = [store.add_request(new()) for _ in range(5)]
        store.claim()
        ids = [request.id for request in reversed(added)]
        assert [request.id for request in store.requests()] == ids
        page = store.requests(limit=2)
        assert [request.id for request in page] == ids[:2]
        assert [request.id for request in store.requests(before=page[-1].created)] == ids[2:]
        assert [request.id for request in store.requests(state=State.RUNNING)] == [added[0].id]
        assert store.requests(state=State.DONE) == []

    def test_the_queue_limit_counts_what_one_key_has_queued(self, store: Store) -> None:
        for _ in range(2):
            store.add_request(new(), queue_limit=2)
        with pytest.raises(QueueFullError, match="2 requests of this key"):
            store.add_request(new(), queue_limit=2)
        store.add_request(new(key_id="other"), queue_limit=2)
        assert len(store.requests()) == 3
        store.claim()
        store.add_request(new(), queue_limit=2)

    def test_forgetting_keeps_the_bill_and_the_result(self, store: Store) -> None:
        old, late, waiting = (store.add_request(new()).id for _ in range(3))
        for id in (old, late, waiting):
            store.add_logs(id, [(1.0, "INFO", "hello")])
            store.record(id, metrics=[(1, {"loss": 1.0})])
        store.finish(old, result(billable_units=100))
        between = time.time()
        store.finish(late, result(billable_units=100))
        assert store.forget(between) == 1
        assert store.forget(between) == 0
        assert (store.body(old), store.logs(old), store.metrics(old)) == (None, [], [])
        for id in (late, waiting):
            assert store.body(id) and store.logs(id) and store.metrics(id)
        assert (found := store.request(old)) and found.result == result(billable_units=100)
        assert store.billed() == [("t2a", 2, 200)]


class TestQueue:
    def test_by_priority_then_arrival_and_back_to_the_old_place(self, store: Store) -> None:
        low = store.add_request(new(priority=1)).id
        first, second = (store.add_request(new()).id for _ in range(2))
        assert [store.queue_position(id) for id in (first, second, low)] == [0, 1, 2]
        claimed = store.claim()
        assert claimed and claimed.id == first and claimed.state is State.RUNNING
        assert claimed.started and claimed.started >= claimed.created
        assert [store.queue_position(id) for id in (first, second, low)] == [0, 0, 1]
        store.requeue(first, crashed=False)
        store.requeue(second, crashed=True)  # it is not running
        assert [store.queue_position(id) for id in (first, second, low)] == [0, 1, 2]
        assert [request.attempts for request in store.requests()] == [0, 0, 0]
        assert claim_all(store) == [first, second, low]
        store.requeue(second, crashed=True)
        again = store.claim()
        assert again and (again.id, again.attempts) == (second, 1)

    def test_a_start_deadline_binds_the_first_start_alone(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        now = time.time()
        late, early, free = (store.add_request(new(start_deadline=at)).id for at in (now - 1, now + 60, None))
        assert [request.id for request in store.overdue(now)] == [late]
        assert claim_all(store) == [early, free]
        store.requeue(early, crashed=True)
        monkeypatch.setattr("time.time", lambda: now + 61)
        assert [request.id for request in store.overdue(now + 61)] == [late]
        store.finish(late, result(status=504))
        assert store.overdue(now + 61) == []
        assert claim_all(store) == [early]

    def test_what_is_to_be_cancelled_is_not_started_any_more(self, store: Store) -> None:
        running, queued, done = (store.add_request(new()).id for _ in range(3))
        store.claim()
        store.finish(done, result())
        assert [store.request_cancel(id) for id in (running, queued, done)] == [State.RUNNING, State.QUEUED, State.DONE]
        assert {request.id for request in store.to_cancel()} == {running, queued}
        assert (found := store.request(done)) and not found.cancel_requested
        assert store.claim() is None
        store.requeue(running, crashed=False)
        assert store.claim() is None
        for id in (running, queued):
            assert store.finish(id, result(status=499))
        assert store.to_cancel() == []

    def test_against_a_model_in_plain_python(self, store: Store) -> None:
        """Many random turns; the queue and its order must be those of a sorted list."""
        dice = random.Random(5)
        priorities: dict[str, int] = {}  # in the order of arrival
        queued: set[str] = set()
        running: set[str] = set()
        for _ in range(150):
            order = sorted((id for id in priorities if id in queued), key=priorities.__getitem__)
            turn = dice.choice(["add", "add", "claim", "requeue", "finish"])
            if turn == "add":
                priority = dice.choice([0, 0, 1])
                id = store.add_request(new(priority=priority)).id
                priorities[id] = priority
                queued.add(id)
            elif turn == "claim":
                claimed = store.claim()
                assert (claimed.id if claimed else None) == (order[0] if order else None)
                if claimed:
                    queued.remove(claimed.id)
                    running.add(claimed.id)
            elif turn == "requeue" and running:
                id = dice.choice(sorted(running))
                store.requeue(id, crashed=False)
                running.remove(id)
                queued.add(id)
            elif turn == "finish" and (running or queued):
                id = dice.choice(sorted(running | queued))
                assert store.finish(id, result())
                running.discard(id)
                queued.discard(id)
            order = sorted((id for id in priorities if id in queued), key=priorities.__getitem__)
            assert [store.queue_position(id) for id in order] == list(range(len(order)))
        assert claim_all(store) == order
        assert len(order) > 3

    def test_a_status_costs_no_walk_through_all_requests(self, tmp_path: Path) -> None:
        """SQLite's own word on it: nothing that is polled scans the table, however many requests are done."""
        database = SqliteDatabase(tmp_path / "server.db")
        store, keys = Store(database), Keys(database)
        id = store.add_request(new()).id
        asked: list[str] = []
        with database._reader.connect() as connection:
            driver = connection.connection.dbapi_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.set_trace_callback(asked.append)
        # The pool hands out the connection that was given back last, so these calls are traced.
        store.request(id)
        store.queue_position(id)
        store.to_cancel()
        store.to_pause()
        store.overdue(time.time())
        store.logs(id)
        keys.check("a:b")
        with sqlite3.connect(database.address) as plain:
            plans = {sql: [row[3] for row in plain.execute(f"EXPLAIN QUERY PLAN {sql}")] for sql in asked}
        plain.close()
        database.close()
        assert len(plans) == 7
        for sql, plan in plans.items():
            for line in plan:
                is_partial = re.search("USING (COVERING )?INDEX (queue|cancels|running)$", line)
                assert "SCAN" not in line or is_partial, (sql, line)
                assert "TEMP B-TREE" not in line, (sql, line)

    def test_a_position_among_several_owners_is_counted_in_ranges_of_indexes(self, tmp_path: Path) -> None:
        with closing(SqliteDatabase(tmp_path / "server.db")) as database:
            store = Store(database, ShareRules(hours=1.0))
            store.finish(store.add_request(new(key_id="b")).id, result(inference_time=9.0))
            ids = [store.add_request(new(key_id=key)).id for key in ("a", "b", "c", "b")]
            assert [store.queue_position(id) for id in ids] == [0, 2, 1, 3]
            asked: list[str] = []
            with database._reader.connect() as connection:
                driver = connection.connection.dbapi_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.set_trace_callback(asked.append)
            store.queue_position(ids[-1])
            assert len(asked) == 2, "what the owners have used is known for a second"
            with closing(sqlite3.connect(database.path)) as plain:
                plan = [row[3] for sql in asked for row in plain.execute(f"EXPLAIN QUERY PLAN {sql}")]
            searched = [line for line in plan if "SEARCH" in line]
            assert len(searched) == 4 and not any("SCAN requests" in line or "B-TREE" in line for line in plan), plan
            assert sum("queue_by_key (key_id=? AND priority=?" in line for line in searched) == 2, plan


class TestConcurrency:
    def test_each_request_is_claimed_once(self, store: Store, database: Database) -> None:
        """By eight threads, four of them on connections of their own, as another process would have."""
        ids = [store.add_request(new(priority=number % 2)).id for number in range(40)]
        other = open_database(database.address)
        ready = Barrier(8)

        def claims(of: Store) -> list[str]:
            ready.wait()
            return claim_all(of)

        with ThreadPoolExecutor(8) as threads:
            claimed = list(threads.map(claims, [store, Store(other)] * 4))
        other.close()
        assert sorted(id for some in claimed for id in some) == sorted(ids)
        # Who takes an early one has taken nothing later before: each thread's are in the queue's order.
        order = {id: place for place, id in enumerate(ids[::2] + ids[1::2])}
        for some in claimed:
            assert [order[id] for id in some] == sorted(order[id] for id in some)

    def test_one_of_many_finishes_and_one_delivery_comes_of_it(self, store: Store) -> None:
        id = store.add_request(new(webhook="https://e/hook")).id
        with ThreadPoolExecutor(8) as threads:
            first = list(threads.map(lambda n: store.finish(id, result(status=200 + n)), range(8)))
        assert first.count(True) == 1
        found = store.request(id)
        assert found and found.result and found.result.status == 200 + first.index(True)
        assert len(store.deliveries(id)) == 1

    def test_the_limit_holds_when_many_add_at_once(self, store: Store) -> None:
        def add(_: int) -> bool:
            try:
                store.add_request(new(), queue_limit=5)
            except QueueFullError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(add, range(20))) == 5

    def test_another_process_may_list_and_cancel(self, store: Store, database: Database) -> None:
        ids = [store.add_request(new()).id for _ in range(2)]
        store.claim()
        code = (
            "import sys; from pathlib import Path\n"
            "from sonolora.server.database.open_database import open_database\n"
            "from sonolora.server.jobs.store import Store\n"
            "address = sys.argv[1] if '://' in sys.argv[1] else Path(sys.argv[1])\n"
            "database = open_database(address); store = Store(database)\n"
            "print([request.id for request in store.requests()], store.request_cancel(sys.argv[2]))\n"
            "database.close()"
        )
        told = subprocess.run(
            [sys.executable, "-c", code, database.address, ids[1]], check=True, text=True, capture_output=True
        )
        assert told.stdout.strip() == f"{ids[::-1]} queued"
        assert [request.id for request in store.to_cancel()] == [ids[1]]
        assert store.claim() is None


ADDER = """
import sys, threading
from pathlib import Path
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.store import Store
store = Store(SqliteDatabase(Path(sys.argv[1])))
new = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={"prompt": "p" * 9000})
def add():
    while True:
        sys.stdout.write(store.add_request(new).id + "\\n")
        sys.stdout.flush()
for _ in range(3):
    threading.Thread(target=add).start()
"""


def test_a_killed_process_loses_nothing_that_it_was_told_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    kept: list[str] = []
    for lines in (25, 60):  # the second one begins with what the first one left
        child = subprocess.Popen([sys.executable, "-c", ADDER, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout
        kept += [child.stdout.readline().strip() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        # The last line may be cut off.
        kept += [line.strip() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    with closing(SqliteDatabase(path)) as database:
        store = Store(database)
        there = store.requests(limit=10_000)
        missing = set(kept) - {request.id for request in there}
        whole = [store.body(request.id) == {"prompt": "p" * 9000} for request in there]
    assert len(kept) >= 85 and not missing and all(whole)
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert plain.execute("PRAGMA foreign_key_check").fetchall() == []
    plain.close()


class TestRuns:
    def test_logs_come_in_order_and_from_where_one_stopped(self, store: Store) -> None:
        id, other = (store.add_request(new()).id for _ in range(2))
        store.add_logs(id, [(2.0, "INFO", "a"), (1.0, "WARN", "caf\udce9")])
        store.add_logs(other, [(3.0, "INFO", "not this one")])
        store.add_logs(id, [])
        lines = store.logs(id)
        assert [(line.time, line.level, line.message) for line in lines] == [
            (2.0, "INFO", "a"),
            (1.0, "WARN", "caf\\udce9"),
        ]
        store.add_logs(id, [(4.0, "INFO", "b")])
        assert [line.message for line in store.logs(id, after=lines[-1].number)] == ["b"]
        with pytest.raises(IntegrityError):
            store.add_logs("of nothing", [(1.0, "INFO", "a")])

    def test_a_resumed_run_writes_its_steps_anew(self, store: Store) -> None:
        id = store.add_request(new()).id
        store.record(id, metrics=[(10, {"loss": 1.0}), (2, {"loss": 2.0})])
        store.record(id, metrics=[])
        store.record(id, metrics=[(10, {"loss": 0.5}), (20, {"loss": math.inf})])
        assert store.metrics(id) == [(2, {"loss": 2.0}), (10, {"loss": 0.5}), (20, {"loss": math.inf})]

    def test_turns_that_the_store_makes_are_events_once(self, store: Store) -> None:
        """Each in the transaction of the turn itself: no crash can come in between."""
        id = store.add_request(new()).id
        for _ in range(2):  # what is done again after a crash
            store.claim()
            store.requeue(id, crashed=False)
            store.requeue(id, crashed=False)
        store.claim()
        store.requeue(id, crashed=True, how="killed")
        assert store.finish(id, result(status=422)) and not store.finish(id, result())
        assert [(event.kind, event.data) for event in store.events(id)] == [
            ("interrupted", {}),
            ("interrupted", {}),
            ("crashed", {"how": "killed"}),
            ("finished", {"status": 422}),
        ]

    def test_the_key_that_used_less_of_late_goes_first(self, database: Database) -> None:
        """Within a priority; without the rule by arrival."""
        store, by_age = Store(database, ShareRules(hours=1.0)), Store(database)
        store.finish(store.add_request(new(key_id="much")).id, result(inference_time=100.0))
        store.finish(store.add_request(new(key_id="little")).id, result(inference_time=10.0))
        keys = ["much", "much", "little", "new", "little"]
        ids = [store.add_request(new(key_id=key, priority=int(key == "new"))).id for key in keys]
        assert store.claim().id == ids[2]
        assert store.claim().id == ids[4], "what runs counts from its start, which is now"
        assert store.claim().id == ids[0], "the key that has used nothing has a later priority"
        assert by_age.claim().id == ids[1]
        assert store.claim().id == ids[3]

    def test_what_is_long_ago_does_not_count(self, store: Store, database: Database) -> None:
        old = store.add_request(new(key_id="much")).id
        store.finish(old, result(inference_time=100.0))
        first, second = (store.add_request(new(key_id=key)).id for key in ("much", "other"))
        database.write(update(requests).where(requests.c.id == old).values(finished=time.time() - 7200))
        assert Store(database, ShareRules(hours=3.0)).claim().id == second
        store.requeue(second, crashed=False)
        assert Store(database, ShareRules(hours=1.0)).claim().id == first

    def test_two_keys_of_an_owner_have_one_share(self, database: Database) -> None:
        """What a third key has used counts, too; and the limit of runs is the owner's."""
        store = Store(database, ShareRules(hours=1.0))
        jo = [store.keys.add(name, owner="Jo")[0] for name in ("laptop", "ci", "old")]
        sam = store.keys.add("desk", owner="Sam")[0]
        store.finish(store.add_request(new(key_id=jo[2])).id, result(inference_time=100.0))
        store.finish(store.add_request(new(key_id=sam)).id, result(inference_time=50.0))
        ids = [store.add_request(new(key_id=key)).id for key in (jo[0], jo[1], jo[0], sam)]
        assert [store.queue_position(id) for id in ids] == [1, 2, 3, 0]
        assert [one.id for one in store.queue()] == [ids[3], *ids[:3]]
        assert store.claim().id == ids[3]
        limited = Store(database, ShareRules(running=1))
        assert limited.claim().id == ids[0]
        assert limited.claim() is None, "another key of the same owner"
        assert store.claim().id == ids[1]

    @pytest.mark.parametrize("seed", range(3))
    def test_the_position_is_the_place_in_the_order_of_claims(self, database: Database, seed: int) -> None:
        """Of priorities, shares, some of them equal, and places that somebody has changed."""
        chance = random.Random(seed)
        store = Store(database, ShareRules(hours=1.0))
        owners = [chance.choice(("Jo", "Sam", "Kim")) for _ in range(5)]
        keys = [*(store.keys.add(f"{index}", owner=owner)[0] for index, owner in enumerate(owners)), "x", "y"]
        for key in chance.sample(keys, 4):
            store.finish(store.add_request(new(key_id=key)).id, result(inference_time=chance.choice((10.0, 20.0))))
        ids = [
            store.add_request(new(key_id=chance.choice(keys), priority=chance.choice((-1, 0, 0, 1)))).id
            for _ in range(30)
        ]
        for _ in range(4):
            store.move(*chance.sample(ids, 2))
        order = [one.id for one in store.queue()]
        assert [store.queue_position(id) for id in order] == list(range(30))
        # A run that has begun takes time from then on, so the next claim is compared with the order as it then is.
        for _ in range(3):
            first = store.queue()[0].id
            assert store.claim().id == first

    def test_a_key_has_no_more_runs_than_it_may(self, database: Database) -> None:
        store = Store(database, ShareRules(running=1))
        ids = [store.add_request(new(key_id=key)).id for key in ("a", "a", "b")]
        assert [store.claim().id for _ in range(2)] == [ids[0], ids[2]]
        assert store.claim() is None
        store.finish(ids[0], result())
        assert store.claim().id == ids[1]

    def test_only_what_a_device_can_hold_is_claimed(self, store: Store) -> None:
        ids = [store.add_request(new()).id for _ in range(3)]
        assert store.uncounted().id == ids[0]
        for id, gb in zip(ids, (40.0, 8.0), strict=False):
            store.set_gb(id, gb)
        assert store.uncounted().id == ids[2]
        assert store.claim(12.0).id == ids[1]
        assert store.claim(12.0) is None
        assert store.claim(80.0).id == ids[0]
        assert store.claim(80.0) is None, "of the last it is not known"
        assert store.claim().id == ids[2]

    def test_usage_by_key(self, store: Store) -> None:
        for key, units in (("b", 100), ("a", 200), ("b", 50)):
            store.finish(store.add_request(new(key_id=key)).id, result(billable_units=units, inference_time=units / 10))
        store.finish(store.add_request(new(key_id="c")).id, result(status=422, billable_units=None))
        assert store.used() == [("a", 1, 200, 20.0), ("b", 2, 150, 15.0), ("c", 1, 0, 0.0)]
        assert all(type(units) is int for _, _, units, _ in store.used())

    def test_drains(self, store: Store) -> None:
        store.drains.add("box", move=False)
        store.drains.add("box", move=True)
        (drain,) = store.drains.all()
        assert (drain.name, drain.move) == ("box", True)
        assert [name for name in ("box", "box/gpu0", "box2/gpu0", "cuda:0") if drain.covers(name)] == [
            "box",
            "box/gpu0",
        ]
        assert store.drains.remove("box") and not store.drains.remove("box")

    def test_what_an_older_attempt_says_is_ignored(self, store: Store) -> None:
        id = store.add_request(new(webhook="https://example.com")).id
        older = store.claim().starts
        store.requeue(id, crashed=True, how="its node was lost", attempt=older)

        def say(attempt: int) -> None:
            line = (1.0, "INFO", f"attempt {attempt}")
            store.record(id, progress={"step": attempt}, logs=[line], metrics=[(1, {"loss": attempt})], attempt=attempt)
            store.add_event(id, "resumed", attempt=attempt)

        def recorded() -> tuple[object, ...]:
            request = store.request(id)
            logs, metrics = store.logs(id), store.metrics(id)
            return request, [line.message for line in logs], metrics, len(store.events(id))

        before = recorded()
        say(older)  # while nothing is running
        assert recorded() == before
        newer = store.claim().starts
        assert newer == older + 1
        say(newer)
        before = recorded()
        assert before[1:] == (["attempt 2"], [(1, {"loss": 2})], 2)
        say(older)
        store.requeue(id, crashed=True, attempt=older)
        assert not store.finish(id, result(), older)
        assert recorded() == before and store.deliveries(id) == []
        assert store.finish(id, result(), newer) and len(store.deliveries(id)) == 1

    def test_events(self, store: Store) -> None:
        id = store.add_request(new()).id
        store.add_event(id, "submitted")
        store.add_event(id, "crashed", {"signal": "SIGKILL"})
        events = store.events(id)
        assert [(event.kind, event.data) for event in events] == [
            ("submitted", {}),
            ("crashed", {"signal": "SIGKILL"}),
        ]
        assert events[0].time <= events[1].time <= time.time()

    def test_the_ledger_counts_what_is_done_by_mode(self, store: Store) -> None:
        for mode, units in (("v2a", 100), ("a2a", 2000), ("a2a", 0), ("a2a", 250)):
            store.finish(store.add_request(new(mode=mode)).id, result(billable_units=units))
        store.add_request(new(mode="a2a"))
        assert store.billed() == [("a2a", 3, 2250), ("v2a", 1, 100)]
