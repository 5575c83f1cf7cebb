"""The job store: requests, and everything that is recorded of them.

In: requests and what becomes of them. Out: the same, also after the process or the machine has died: each call is
one transaction. Any thread may call. Ids are looked up as given: an unknown one finds nothing and changes nothing.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)

from sonolora.core.errors import SonoloraError
from sonolora.server import clock
from sonolora.server.database import tables
from sonolora.server.database.database import Database
from sonolora.server.database.faults import StoreError
from sonolora.server.database.tables import requests, valid_unicode
from sonolora.server.jobs.drains import Drains
from sonolora.server.jobs.fair_share import Positions, ShareRules, keys_at_limit, share_order
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import Delivery, Event, Kind, LogLine, NewRequest, Request, Result, State

NO_RULES = ShareRules()


class QueueFullError(SonoloraError):
    """A key has as many requests in the queue as it may have."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"{limit} requests of this key are in the queue, which is the limit. "
            "Wait until one has started, or cancel one"
        )


def _is(state: State) -> ColumnElement[bool]:
    """Spelt as in the partial indexes; with a bound parameter SQLite would not use them."""
    return requests.c.state == literal_column(f"'{state}'")


_queued = _is(State.QUEUED)
_place: ColumnElement[float] = literal_column("coalesce(place, number)")


def _newest(id: str, attempt: int | None) -> ColumnElement[bool]:
    """The request, while this attempt is the one that is running; with None whatever it does."""
    return (requests.c.id == id) & (true() if attempt is None else _is(State.RUNNING) & (requests.c.starts == attempt))


_to_cancel = (requests.c.cancel_requested == true()) & (requests.c.state != literal_column("'done'"))

_REQUEST = select(requests).where(requests.c.id == bindparam("id"))
_LOGS = (
    select(*tables.logs.c["number", "time", "level", "message"])
    .where(tables.logs.c.request_id == bindparam("id"), tables.logs.c.number > bindparam("after"))
    .order_by(tables.logs.c.number)
)


class Store:
    """See the top of this file; `rules` say whose turn it is. Raises `StoreError` when the database cannot be used."""

    def __init__(self, database: Database, rules: ShareRules = NO_RULES) -> None:
        self._database, self.rules, self._positions = database, rules, Positions(database, rules)
        self.reading, self.drains, self.keys = database.reading, Drains(database), Keys(database)
        self._uncertain: list[float] = []  # starts of which a lost connection did not say whether they were kept

    # The queue

    def add_request(self, new: NewRequest, *, queue_limit: int | None = None, warnings: Sequence[str] = ()) -> Request:
        """Put a request at the end of the queue, with warnings in its log.

        Raises QueueFullError if its key has `queue_limit` queued ones.
        """
        options = {name: value for name, value in vars(new).items() if name != "body"}
        request = Request(**options, id=str(uuid.uuid4()), state=State.QUEUED, created=clock.now())
        body = json.dumps(new.body)
        with self._database.transaction() as transaction:
            if queue_limit is not None:
                self._database.queue_up(transaction, new.key_id)
                of_key = select(func.count()).select_from(requests).where(_queued, requests.c.key_id == new.key_id)
                if transaction.execute(of_key).scalar_one() >= queue_limit:
                    raise QueueFullError(queue_limit)
            row = {
                **options,
                "options": json.dumps(new.options),
                "id": request.id,
                "state": request.state,
                "created": request.created,
            }
            transaction.execute(insert(requests), row)
            transaction.execute(insert(tables.bodies), {"request_id": request.id, "body": body})
            _add_logs(transaction, request.id, [(request.created, "WARN", line) for line in warnings])
            self._database.tell(transaction, request.id)
        return request

    def queue_position(self, id: str) -> int:
        """How many queued requests are ahead of this one, in the order of `claim`; 0 when it is not in the queue."""
        return self._positions.of(valid_unicode(id))

    def claim(self, gb: float = math.inf) -> Request | None:
        """Take the next request out of the queue to run it, by priority, then by the rules, then by arrival.

        Skips those whose start deadline has passed, unless they have been started once, those to be cancelled, those
        that are paused, and those that need more than `gb` of memory, or of which that is not known.
        """
        now = clock.now()
        in_time = or_(
            requests.c.start_deadline.is_(None), requests.c.start_deadline > now, requests.c.started.is_not(None)
        )
        following = (
            select(requests.c.number)
            .where(_queued, requests.c.cancel_requested.is_(False), requests.c.paused.is_(False), in_time)
            .limit(1)
            .with_for_update(skip_locked=True)  # where there is more than one writer
            .correlate(None)
        )
        if gb < math.inf:
            following = following.where(requests.c.gb <= gb)
        values = {"state": State.RUNNING, "started": now, "starts": requests.c.starts + 1}
        if self._uncertain and (found := self._started(self._uncertain.pop())):
            return found
        try:
            with self._database.transaction() as transaction:
                if full := keys_at_limit(transaction, self.rules):
                    following = following.where(requests.c.key_id.not_in(full))
                following = following.order_by(*self._order(transaction, now))
                taken = update(requests).where(requests.c.number == following.scalar_subquery())
                row = transaction.execute(taken.values(values).returning(*requests.c)).one_or_none()
        except StoreError:
            self._uncertain.append(now)
            raise
        return Request.of(row) if row else None

    def _order(self, connection: Connection, now: float) -> list[ColumnElement[Any]]:
        share = share_order(connection, self.rules, now)
        return [requests.c.priority, *([] if share is None else [share]), _place]

    def _started(self, when: float) -> Request | None:
        """The running request that was started at exactly that time."""
        try:
            rows = self._database.read(select(requests).where(_is(State.RUNNING), requests.c.started == when))
        except StoreError:
            self._uncertain.append(when)
            raise
        return Request.of(rows[0]) if rows else None

    def uncounted(self) -> Request | None:
        """The first queued request of which it is not known how much memory it needs."""
        first = select(requests).where(_queued, requests.c.gb.is_(None)).order_by(requests.c.priority, _place).limit(1)
        rows = self._database.read(first)
        return Request.of(rows[0]) if rows else None

    def set_gb(self, id: str, gb: float) -> None:
        """Note how much memory a request needs."""
        self._database.write(update(requests).where(requests.c.id == id).values(gb=gb))

    def overdue(self, now: float) -> list[Request]:
        """The queued requests whose start deadline has passed and that have never been started."""
        late = select(requests).where(_queued, requests.c.start_deadline <= now, requests.c.started.is_(None))
        rows = self._database.read(late.order_by(requests.c.priority, _place))
        return [Request.of(row) for row in rows]

    def requeue(self, id: str, *, crashed: bool, how: str | None = None, attempt: int | None = None) -> None:
        """Put a running request back to its old place in the queue, as `interrupted`.

        When `crashed` it counts as an attempt; `how` says how it crashed. Given an older `attempt`, nothing happens.
        """
        back = update(requests).where(_newest(id, attempt), requests.c.state == State.RUNNING)
        with self._database.transaction() as transaction:
            values = {"state": State.QUEUED, "attempts": requests.c.attempts + int(crashed)}
            if transaction.execute(back.values(values)).rowcount:
                event = _event(id, "crashed", {"how": how}) if crashed else _event(id, "interrupted")
                transaction.execute(insert(tables.events), event)

    def pause(self, id: str, paused: bool) -> bool:
        """Keep a request from being started, or let it start again. False when it is done, or unknown.

        One that is running stays so: see `to_pause`.
        """
        not_done = update(requests).where(requests.c.id == id, requests.c.state != State.DONE)
        with self._database.transaction() as transaction:
            changed = transaction.execute(not_done.values(paused=paused)).rowcount > 0
            if changed:
                self._database.tell(transaction, id)
        return changed

    def to_pause(self) -> list[str]:
        """The ids of the running requests that are to be paused."""
        running = select(requests.c.id).where(_is(State.RUNNING), requests.c.paused.is_(True))
        return [row.id for row in self._database.read(running)]

    def move(self, id: str, before: str | None) -> bool:
        """Move a queued request directly ahead of another one, whose priority it takes, or to the end of the queue.

        False when one of the two is not in the queue.
        """
        columns = requests.c["id", "priority"]
        with self._database.transaction() as transaction:
            in_order = select(*columns, _place.label("at")).where(_queued).order_by(requests.c.priority, _place)
            rows = [row for row in transaction.execute(in_order) if row.id != id]
            index = next((index for index, row in enumerate(rows) if row.id == before), None)
            if before is None:
                index = len(rows)
            if index is None:
                return False
            neighbours = rows[max(index - 1, 0) : index], rows[index : index + 1]
            following = neighbours[1][0] if neighbours[1] else None
            ahead = neighbours[0][0] if index and neighbours[0] else None
            if following is not None:
                priority = following.priority
                first = ahead.at if ahead is not None and ahead.priority == priority else following.at - 2.0
                place = (first + following.at) / 2
            elif ahead is not None:
                priority, place = ahead.priority, ahead.at + 1.0
            else:
                return bool(transaction.execute(select(requests.c.id).where(_queued, requests.c.id == id)).first())
            moved = update(requests).where(_queued, requests.c.id == id).values(priority=priority, place=place)
            return transaction.execute(moved).rowcount > 0

    def set_options(self, id: str, **changes: Any) -> bool:
        """Change what is recorded beside the published request, such as its name."""
        with self._database.transaction() as transaction:
            options = transaction.scalar(select(requests.c.options).where(requests.c.id == id).with_for_update())
            if options is None:
                return False
            merged = json.dumps({**json.loads(options), **changes})
            transaction.execute(update(requests).where(requests.c.id == id).values(options=merged))
        return True

    def request_cancel(self, id: str) -> State | None:
        """Mark a request to be cancelled, unless it is done; from then on it is not claimed.

        Returns the state it was in, None for an unknown id. The server's process ends it: see `to_cancel`.
        """
        with self._database.transaction() as transaction:
            state = transaction.scalar(select(requests.c.state).where(requests.c.id == id).with_for_update())
            not_done = update(requests).where(requests.c.id == id, requests.c.state != State.DONE)
            if transaction.execute(not_done.values(cancel_requested=True)).rowcount:
                self._database.tell(transaction, id)
        return State(state) if state else None

    def to_cancel(self) -> list[Request]:
        """The queued and running requests that are to be cancelled."""
        return [Request.of(row) for row in self._database.read(select(requests).where(_to_cancel))]

    def finish(self, id: str, result: Result, attempt: int | None = None) -> bool:
        """Give a queued or running request its result, and its webhook a delivery.

        False: it had a result already, or `attempt` is given and older than the one that is running.
        """
        now = clock.now()
        not_done = update(requests).where(_newest(id, attempt), requests.c.state != State.DONE)
        columns = {**vars(result), "headers": json.dumps(result.headers), "result": json.dumps(result.body)}
        del columns["body"]
        with self._database.transaction() as transaction:
            values = {**columns, "state": State.DONE, "finished": now}
            row = transaction.execute(not_done.values(values).returning(requests.c.webhook)).one_or_none()
            if row:
                transaction.execute(insert(tables.events), _event(id, "finished", {"status": result.status}))
            if row and row.webhook:
                delivery = {"request_id": id, "url": row.webhook, "next_try": now}
                transaction.execute(insert(tables.deliveries), delivery)
        return row is not None

    # Reading

    def request(self, id: str) -> Request | None:
        rows = self._database.fetch(_REQUEST, id=valid_unicode(id))
        return Request.of(rows[0]) if rows else None

    def ids(self, prefix: str) -> list[str]:
        """The ids of all requests that begin with it."""
        begins = requests.c.id.startswith(prefix, autoescape=True)
        return [row.id for row in self._database.read(select(requests.c.id).where(begins))]

    def body(self, id: str) -> dict[str, Any] | None:
        """The body as it was submitted; None when it has been deleted."""
        rows = self._database.read(select(tables.bodies.c.body).where(tables.bodies.c.request_id == id))
        return json.loads(rows[0][0]) if rows else None

    def requests(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        mode: str | None = None,
        key_ids: Sequence[str] | None = None,
        limit: int = 100,
        before: float | None = None,
        sweeps: bool = False,
    ) -> list[Request]:
        """The newest first: those created before a time, of these keys, of sweeps alone, where that is asked for."""
        query = select(requests).order_by(requests.c.created.desc(), requests.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(_is(state))
        if before is not None:
            query = query.where(requests.c.created < before)
        if kind is not None:
            query = query.where(requests.c.kind == kind)
        if mode is not None:
            query = query.where(requests.c.mode == mode)
        if key_ids is not None:
            query = query.where(requests.c.key_id.in_(key_ids))
        if sweeps:
            query = query.where(requests.c.endpoint.endswith("/sweep", autoescape=True))
        return [Request.of(row) for row in self._database.read(query)]

    def used(self) -> list[tuple[str, int, int, float]]:
        """The ledger by key: the id, its finished requests, their billable units, and seconds on a device."""
        columns = (requests.c.key_id, func.count(), func.sum(requests.c.billable_units))
        done = select(*columns, func.sum(requests.c.inference_time)).where(requests.c.state == State.DONE)
        rows = self._database.read(done.group_by(requests.c.key_id).order_by(requests.c.key_id))
        # PostgreSQL adds up whole numbers to a Decimal.
        return [(key, number, int(units or 0), seconds or 0.0) for key, number, units, seconds in rows]

    def waiting(self) -> list[tuple[str, int, float]]:
        """By kind: how many requests wait, and since when the oldest does."""
        of_kind = select(requests.c.kind, func.count(), func.min(requests.c.created)).where(_queued)
        return [(kind, number, oldest) for kind, number, oldest in self._database.read(of_kind.group_by("kind"))]

    def outcomes(self) -> list[tuple[str, int | None, int, int]]:
        """By mode and status, None of those that are not done: how many requests, and attempts that crashed."""
        columns = requests.c["mode", "status"]
        counts = select(*columns, func.count(), func.sum(requests.c.attempts)).group_by(*columns)
        return [(mode, status, number, int(crashes)) for mode, status, number, crashes in self._database.read(counts)]

    def billed(self) -> list[tuple[str, int, int]]:
        """The ledger: each mode with the number of its finished trainings and their billable units."""
        units = select(requests.c.mode, func.count(), func.sum(requests.c.billable_units))
        done = units.where(requests.c.state == State.DONE, requests.c.kind == Kind.TRAIN)
        by_mode = done.group_by(requests.c.mode).order_by("mode")
        return [
            (mode, number, int(units)) for mode, number, units in self._database.read(by_mode)
        ]  # PostgreSQL's: Decimal

    def forget(self, before: float) -> int:
        """Delete the bodies, logs and metrics of requests that finished before then. Returns of how many."""
        old = select(requests.c.id).where(requests.c.state == State.DONE, requests.c.finished < before)
        with self._database.transaction() as transaction:
            for table in (tables.logs, tables.metrics):
                transaction.execute(delete(table).where(table.c.request_id.in_(old)))
            return transaction.execute(delete(tables.bodies).where(tables.bodies.c.request_id.in_(old))).rowcount

    # What a run reports

    def record(
        self,
        id: str,
        *,
        progress: dict[str, Any] | None = None,
        logs: Sequence[tuple[float, str, str]] = (),
        metrics: Sequence[tuple[int, dict[str, Any]]] = (),
        attempt: int | None = None,
    ) -> None:
        """Keep all of it or, when it raises or `attempt` is older than the one that is running, none.

        `progress` replaces the earlier one; `logs` are lines of (time, level, message); `metrics` are values by step,
        where a resumed run repeats steps: the later values replace the earlier ones.
        """
        newest = _newest(id, attempt)
        with self._database.transaction() as transaction:
            if attempt is not None and not transaction.scalar(select(requests.c.id).where(newest).with_for_update()):
                return
            if progress is not None:
                values = {"progress": json.dumps(progress)}
                transaction.execute(update(requests).where(newest).values(values))
            _add_logs(transaction, id, logs)
            if metrics:
                rows = [{"request_id": id, "step": step, "data": json.dumps(data)} for step, data in metrics]
                transaction.execute(self._database.upsert(tables.metrics), rows)

    def add_logs(self, id: str, lines: Sequence[tuple[float, str, str]], attempt: int | None = None) -> None:
        """Lines of (time, level, message)."""
        self.record(id, logs=lines, attempt=attempt)

    def add_event(self, id: str, kind: str, data: dict[str, Any] | None = None, *, attempt: int | None = None) -> None:
        """An event, unless `attempt` is older than the one that is running."""
        with self._database.transaction() as transaction:
            if transaction.scalar(select(requests.c.id).where(_newest(id, attempt)).with_for_update()):
                transaction.execute(insert(tables.events), _event(id, kind, data))

    def logs(self, id: str, after: int = 0) -> list[LogLine]:
        """The lines in order, those with a number above `after`."""
        return [LogLine(*row) for row in self._database.fetch(_LOGS, id=valid_unicode(id), after=after)]

    def queue(self) -> list[Request]:
        """The queued requests in the order in which they are started."""

        def waiting(connection: Connection) -> Sequence[Any]:
            order = self._order(connection, clock.now())
            return connection.execute(select(requests).where(_queued).order_by(*order)).all()

        return [Request.of(row) for row in self._database.look(waiting)]

    def metrics(self, id: str, since: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """The values by step, in order, from a step on."""
        table = tables.metrics
        of_request = (
            select(table.c.step, table.c.data)
            .where(table.c.request_id == id, table.c.step >= since)
            .order_by(table.c.step)
        )
        return [(step, json.loads(data)) for step, data in self._database.read(of_request)]

    def events(self, id: str) -> list[Event]:
        columns = tables.events.c["time", "kind", "data"]
        of_request = select(*columns).where(tables.events.c.request_id == id).order_by(tables.events.c.number)
        return [Event(when, kind, json.loads(data)) for when, kind, data in self._database.read(of_request)]

    def deliveries(self, id: str) -> list[Delivery]:
        """The deliveries to the request's webhook."""
        of_request = select(tables.deliveries).where(tables.deliveries.c.request_id == id)
        return [Delivery(*row) for row in self._database.read(of_request)]


def _add_logs(transaction: Connection, id: str, lines: Sequence[tuple[float, str, str]]) -> None:
    rows = [{"request_id": id, "time": when, "level": level, "message": text} for when, level, text in lines]
    if rows:
        transaction.execute(insert(tables.logs), rows)


def _event(id: str, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """A row of the table `events`."""
    return {"request_id": id, "time": clock.now(), "kind": kind, "data": json.dumps(data or {})}
