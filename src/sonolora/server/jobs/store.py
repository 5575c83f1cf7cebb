"""The job store: everything that the server must not lose, in one SQLite file.

In: requests and what becomes of them. Out: the same, also after the process or the machine has died: each call is
one transaction, and is on the disk when it returns. Any thread may call, and other processes may use the same file,
so that `sonolora requests` works beside a running server. Ids are looked up as given: one that is unknown finds
nothing and changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Executable,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite

from sonolora.core.errors import SonoloraError
from sonolora.server.database import tables
from sonolora.server.database.database import faults_in_words, open_database
from sonolora.server.database.tables import requests, spelt_out
from sonolora.server.jobs.records import Delivery, Event, Key, LogLine, NewRequest, Request, Result, State


class QueueFullError(SonoloraError):
    """A key has as many requests in the queue as it may have."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"{limit} requests of this key are in the queue, which is the limit. "
            "Wait until one has started, or cancel one"
        )


# Spelt as it stands in the partial indexes; with a bound parameter they would not be used.
_queued = requests.c.state == literal_column("'queued'")
_cancel_wanted = (requests.c.cancel_asked == literal_column("1")) & (requests.c.state != literal_column("'done'"))


def _sql(statement: Select[Any]) -> str:
    """The text of a statement that is asked so often that SQLAlchemy's part would cost more than SQLite's."""
    return str(statement.compile(dialect=sqlite.dialect()))


_REQUEST = _sql(select(requests).where(requests.c.id == bindparam("id")))
_LOGS = _sql(
    select(*tables.logs.c["number", "time", "level", "message"])
    .where(tables.logs.c.request_id == bindparam("id"), tables.logs.c.number > bindparam("after"))
    .order_by(tables.logs.c.number)
)
_KEY = _sql(
    select(*tables.keys.c["id", "name", "created", "sha256"]).where(
        tables.keys.c.id == bindparam("id"), tables.keys.c.revoked.is_(None)
    )
)
# Two counts, each of which is one stretch of the index; a comparison of pairs would walk a whole priority.
_POSITION = """
    SELECT (SELECT count(*) FROM requests AS other
            WHERE other.state = 'queued' AND other.priority < mine.priority)
         + (SELECT count(*) FROM requests AS other
            WHERE other.state = 'queued' AND other.priority = mine.priority AND other.number < mine.number)
    FROM requests AS mine WHERE mine.id = ? AND mine.state = 'queued'
"""


class Store:
    """See the top of this file. Raises `StoreError` when the file cannot be used.

    `engine` is for transactions that write; they come one after the other, so that a second one inside the first
    would wait for itself. `reader` is for reading.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine, self.reader = open_database(path)

    def close(self) -> None:
        self.engine.dispose()
        self.reader.dispose()

    # Requests

    def add_request(self, new: NewRequest, *, queue_limit: int | None = None) -> Request:
        """Put a request at the end of the queue. QueueFullError if its key has `queue_limit` queued ones."""
        asked = {name: value for name, value in vars(new).items() if name != "body"}
        request = Request(**asked, id=str(uuid.uuid4()), state=State.QUEUED, created=time.time())
        body = json.dumps(new.body)
        with self.engine.begin() as transaction:
            if queue_limit is not None:
                of_key = select(func.count()).select_from(requests).where(_queued, requests.c.key_id == new.key_id)
                if transaction.execute(of_key).scalar_one() >= queue_limit:
                    raise QueueFullError(queue_limit)
            row = {**asked, "id": request.id, "state": request.state, "created": request.created}
            transaction.execute(insert(requests), row)
            transaction.execute(insert(tables.bodies), {"request_id": request.id, "body": body})
        return request

    def request(self, id: str) -> Request | None:
        rows = self._fetch(_REQUEST, id)
        return Request.of(rows[0]) if rows else None

    def ids(self, beginning: str) -> list[str]:
        """Those of all requests whose id begins so."""
        begins = requests.c.id.startswith(beginning, autoescape=True)
        return [row.id for row in self._read(select(requests.c.id).where(begins))]

    def body(self, id: str) -> dict[str, Any] | None:
        """What was asked for, as it came; None when it has been forgotten."""
        rows = self._read(select(tables.bodies.c.body).where(tables.bodies.c.request_id == id))
        return json.loads(rows[0][0]) if rows else None

    def requests(self, *, state: State | None = None, limit: int = 100, before: float | None = None) -> list[Request]:
        """The newest first; `before`: only those created before then."""
        wanted = select(requests).order_by(requests.c.created.desc(), requests.c.number.desc()).limit(limit)
        if state is not None:
            wanted = wanted.where(requests.c.state == state)
        if before is not None:
            wanted = wanted.where(requests.c.created < before)
        return [Request.of(row) for row in self._read(wanted)]

    def queue_position(self, id: str) -> int:
        """How many queued requests are in front of this one; 0 also when it is not in the queue."""
        rows = self._fetch(_POSITION, id)
        return int(rows[0][0]) if rows else 0

    def claim(self) -> Request | None:
        """Take the next request out of the queue to run it, by priority, then by arrival.

        Left out are those whose start deadline has passed, unless they have been started once, and those that are
        to be cancelled.
        """
        now = time.time()
        in_time = or_(
            requests.c.start_deadline.is_(None), requests.c.start_deadline > now, requests.c.started.is_not(None)
        )
        following = (
            select(requests.c.number)
            .where(_queued, requests.c.cancel_asked.is_(False), in_time)
            .order_by(requests.c.priority, requests.c.number)
            .limit(1)
            .correlate(None)
            .scalar_subquery()
        )
        taken = update(requests).where(requests.c.number == following).values(state=State.RUNNING, started=now)
        with self.engine.begin() as transaction:
            row = transaction.execute(taken.returning(*requests.c)).one_or_none()
        return Request.of(row) if row else None

    def overdue(self, now: float) -> list[Request]:
        """Those in the queue that should have started by now and never have."""
        late = select(requests).where(_queued, requests.c.start_deadline <= now, requests.c.started.is_(None))
        return [Request.of(row) for row in self._read(late.order_by(requests.c.priority, requests.c.number))]

    def requeue(self, id: str, *, crashed: bool, how: str | None = None) -> None:
        """Put a running request back to its old place in the queue, as `interrupted`.

        As `crashed` it counts as an attempt; `how` says what of.
        """
        back = update(requests).where(requests.c.id == id, requests.c.state == State.RUNNING)
        with self.engine.begin() as transaction:
            values = {"state": State.QUEUED, "attempts": requests.c.attempts + int(crashed)}
            if transaction.execute(back.values(values)).rowcount:
                event = _event(id, "crashed", {"how": how}) if crashed else _event(id, "interrupted")
                transaction.execute(insert(tables.events), event)

    def ask_cancel(self, id: str) -> State | None:
        """Ask that a request be cancelled, unless it is done; from then on it is not claimed.

        Returns the state it was in, None for an unknown id. Whoever runs the server ends it: see `cancels`.
        """
        with self.engine.begin() as transaction:
            state = transaction.scalar(select(requests.c.state).where(requests.c.id == id))
            asked = update(requests).where(requests.c.id == id, requests.c.state != State.DONE)
            transaction.execute(asked.values(cancel_asked=True))
        return State(state) if state else None

    def cancels(self) -> list[Request]:
        """Those queued and running that are to be cancelled."""
        return [Request.of(row) for row in self._read(select(requests).where(_cancel_wanted))]

    def finish(self, id: str, result: Result) -> bool:
        """Give a queued or running request its result, and its webhook the delivery. False: it had one already."""
        now = time.time()
        end = update(requests).where(requests.c.id == id, requests.c.state != State.DONE)
        columns = {**vars(result), "headers": json.dumps(result.headers), "result": json.dumps(result.body)}
        del columns["body"]
        with self.engine.begin() as transaction:
            values = {**columns, "state": State.DONE, "finished": now}
            row = transaction.execute(end.values(values).returning(requests.c.webhook)).one_or_none()
            if row:
                transaction.execute(insert(tables.events), _event(id, "finished", {"status": result.status}))
            if row and row.webhook:
                delivery = {"request_id": id, "url": row.webhook, "next_try": now}
                transaction.execute(insert(tables.deliveries), delivery)
        return row is not None

    def billed(self) -> list[tuple[str, int, int]]:
        """The ledger: each mode with the number of its finished requests and their billable units."""
        done = select(requests.c.mode, func.count(), func.sum(requests.c.billable_units))
        rows = self._read(done.where(requests.c.state == State.DONE).group_by(requests.c.mode).order_by("mode"))
        return [(mode, number, units) for mode, number, units in rows]

    def forget(self, before: float) -> int:
        """Delete the bodies, logs and metrics of requests that finished before then. Returns of how many."""
        old = select(requests.c.id).where(requests.c.state == State.DONE, requests.c.finished < before)
        with self.engine.begin() as transaction:
            for table in (tables.logs, tables.metrics):
                transaction.execute(delete(table).where(table.c.request_id.in_(old)))
            return transaction.execute(delete(tables.bodies).where(tables.bodies.c.request_id.in_(old))).rowcount

    # What a run tells

    def set_progress(self, id: str, progress: dict[str, Any]) -> None:
        self._write(update(requests).where(requests.c.id == id).values(progress=json.dumps(progress)))

    def add_logs(self, id: str, lines: Sequence[tuple[float, str, str]]) -> None:
        """Lines of (time, level, message)."""
        rows = [{"request_id": id, "time": when, "level": level, "message": text} for when, level, text in lines]
        if rows:
            self._write(insert(tables.logs), rows)

    def logs(self, id: str, after: int = 0) -> list[LogLine]:
        """The lines in their order, those with a number above `after`."""
        return [LogLine(*row) for row in self._fetch(_LOGS, id, after)]

    def add_metrics(self, id: str, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Values by step. A resumed run comes by the same steps again: the later values stand."""
        new = sqlite.insert(tables.metrics)
        new = new.on_conflict_do_update(index_elements=["request_id", "step"], set_={"data": new.excluded.data})
        if rows:
            self._write(new, [{"request_id": id, "step": step, "data": json.dumps(data)} for step, data in rows])

    def metrics(self, id: str) -> list[tuple[int, dict[str, Any]]]:
        table = tables.metrics
        rows = self._read(select(table.c.step, table.c.data).where(table.c.request_id == id).order_by(table.c.step))
        return [(step, json.loads(data)) for step, data in rows]

    def add_event(self, id: str, kind: str, data: dict[str, Any] | None = None) -> None:
        self._write(insert(tables.events), _event(id, kind, data))

    def events(self, id: str) -> list[Event]:
        columns = tables.events.c["time", "kind", "data"]
        rows = self._read(select(*columns).where(tables.events.c.request_id == id).order_by(tables.events.c.number))
        return [Event(when, kind, json.loads(data)) for when, kind, data in rows]

    # Keys

    def add_key(self, name: str) -> tuple[str, str]:
        """A new key: its id, and the secret `<id>:<64 hexadecimal digits>`, which is not kept and never shown again."""
        id, random = secrets.token_hex(8), secrets.token_hex(32)
        # 256 random bits cannot be guessed from their hash, so that it need not be a slow one.
        row = {"id": id, "name": name, "sha256": _sha256(random), "created": time.time()}
        self._write(insert(tables.keys), row)
        return id, f"{id}:{random}"

    def keys(self) -> list[Key]:
        """All of them, the oldest first, the revoked ones too."""
        columns = tables.keys.c["id", "name", "created", "revoked"]
        return [Key(*row) for row in self._read(select(*columns).order_by(tables.keys.c.created))]

    def revoke_key(self, id: str) -> bool:
        """False when there is no such key, or it was revoked before."""
        valid = update(tables.keys).where(tables.keys.c.id == id, tables.keys.c.revoked.is_(None))
        return self._write(valid.values(revoked=time.time())) > 0

    def check_key(self, secret: str) -> Key | None:
        """The key that a secret belongs to, if it is not revoked."""
        id, _, random = secret.partition(":")
        rows = self._fetch(_KEY, id)
        # Compared in a time that does not tell how many digits were right.
        if not rows or not hmac.compare_digest(rows[0][-1], _sha256(random)):
            return None
        return Key(*rows[0][:-1])

    # Webhook deliveries

    def due_deliveries(self, now: float) -> list[Delivery]:
        due = select(tables.deliveries).where(tables.deliveries.c.next_try <= now)
        return [Delivery(*row) for row in self._read(due.order_by(tables.deliveries.c.next_try))]

    def deliveries(self, request_id: str) -> list[Delivery]:
        rows = self._read(select(tables.deliveries).where(tables.deliveries.c.request_id == request_id))
        return [Delivery(*row) for row in rows]

    def delivery_done(self, id: int, outcome: str) -> None:
        self.delivery_failed(id, outcome, None)

    def delivery_failed(self, id: int, why: str, next_try: float | None) -> None:
        """Count an attempt; `next_try` None: it is given up."""
        table = tables.deliveries
        after = {"attempts": table.c.attempts + 1, "outcome": why, "next_try": next_try}
        self._write(update(table).where(table.c.id == id).values(after))

    def _fetch(self, sql: str, id: str, *more: int) -> Sequence[Any]:
        """The rows of a prepared statement, straight from the driver: a fifth of what `_read` takes."""
        connection = self.reader.raw_connection()
        try:
            with faults_in_words(self.path):
                cursor = connection.cursor()
                cursor.execute(sql, (spelt_out(id), *more))
                return cursor.fetchall()
        finally:
            connection.close()

    def _read(self, statement: Select[Any]) -> Sequence[Any]:
        with self.reader.connect() as connection:
            return connection.execute(statement).all()

    def _write(self, statement: Executable, parameters: Any = None) -> int:
        """The number of rows that it changed."""
        with self.engine.begin() as transaction:
            return transaction.execute(statement, parameters).rowcount


def _event(id: str, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """A row of the table."""
    return {"request_id": id, "time": time.time(), "kind": kind, "data": json.dumps(data or {})}


def _sha256(text: str) -> str:
    return hashlib.sha256(spelt_out(text).encode()).hexdigest()
