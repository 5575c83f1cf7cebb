from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.deliveries import Deliveries
from sonolora.server.jobs.records import Delivery, NewRequest, Request, Result
from sonolora.server.jobs.store import Store

URL = "https://e/hook"
DAY = 86_400.0


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def finished(store: Store, webhook: str | None = URL) -> Request:
    request = store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={}, webhook=webhook))
    store.finish(request.id, Result(status=200, body={}))
    return request


def test_tried_until_delivered_or_abandoned(store: Store, database: Database) -> None:
    deliveries = Deliveries(database)
    finished(store, webhook=None)
    request = finished(store)
    now = time.time()
    (due,) = deliveries.due(now, DAY)
    assert due == Delivery(due.id, request.id, URL, 0, due.next_try, None)
    deliveries.record_attempt(due.id, "503", now + 60)
    assert deliveries.due(now + 59, DAY) == []
    assert deliveries.due(now + 60, DAY) == [Delivery(due.id, request.id, URL, 1, now + 60, "503")]
    deliveries.record_attempt(due.id, "200", None)
    assert deliveries.due(now + 1e6, DAY) == []
    assert store.deliveries(request.id) == [Delivery(due.id, request.id, URL, 2, None, "200")]


def test_a_try_that_a_wrong_clock_put_off_for_years_is_due(store: Store, database: Database) -> None:
    deliveries = Deliveries(database)
    finished(store)
    now = time.time()
    (due,) = deliveries.due(now, 2500)
    deliveries.record_attempt(due.id, "503", now + 2500)
    assert deliveries.due(now, 2500) == []
    deliveries.record_attempt(due.id, "503", now + 365 * DAY)
    assert [delivery.attempts for delivery in deliveries.due(now, 2500)] == [2]


def test_a_result_without_its_delivery_is_not_kept(tmp_path: Path) -> None:
    """As if the process died between the two: the database refuses the second write."""
    database = SqliteDatabase(tmp_path / "server.db")
    store = Store(database)
    request = store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={}, webhook=URL))
    with database.transaction() as transaction:
        transaction.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
    with pytest.raises(IntegrityError, match="broken"):
        store.finish(request.id, Result(status=200, body={}))
    assert store.request(request.id) == request
    database.close()
