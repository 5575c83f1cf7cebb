"""The order in which owners have their turn: the owner whose runs took the least time of late goes first.

By owner and not by key: whoever has two keys has no larger share. In: a connection to the database. Out: what the claim
of the next request orders by, and how many requests go before one. With one owner in the queue there is nothing to
share, and nothing is summed up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, TextClause, case, func, literal_column, select, text

from sonolora.server import clock
from sonolora.server.database.database import Database
from sonolora.server.database.tables import keys, requests
from sonolora.server.jobs.records import State

_KEEP_SECONDS = 1.0  # what is told of the order may be so old
_MAX_SHARE = 0.05  # of a processor that summing up may take


@dataclass(frozen=True)
class ShareRules:
    """`hours`: how far back runs count, 0 for turns by age; `running`: how many runs an owner may have at a time."""

    hours: float = 0.0
    running: int | None = None


def share_order(transaction: Connection, rules: ShareRules, now: float) -> ColumnElement[Any] | None:
    """The seconds of device time of a request's owner; None where there is nothing to share."""
    seconds = shares(transaction, rules, now)
    return None if seconds is None else case(dict(seconds), value=requests.c.key_id, else_=0.0)


def shares(connection: Connection, rules: ShareRules, now: float) -> Mapping[str, float] | None:
    """By each key that has queued requests: the seconds of device time of its owner. None: nothing to share."""
    queued = requests.c.state == literal_column("'queued'")
    if not rules.hours:
        return None
    # Two ends of an index, which tell whether there is more than one key, however long the queue is.
    ends = [select(end(requests.c.key_id)).where(queued).scalar_subquery() for end in (func.min, func.max)]
    first, last = connection.execute(select(*ends)).one()
    if first == last:
        return None
    owners = _owners(connection)
    waiting = {
        row.key_id: owners.get(row.key_id, row.key_id)
        for row in connection.execute(select(requests.c.key_id).distinct().where(queued))
    }
    seconds: dict[str, float] = dict.fromkeys(waiting.values(), 0.0)
    if len(seconds) == 1:
        return None
    theirs = {key: owner for key, owner in owners.items() if owner in seconds} | waiting
    running = select(requests.c.key_id, func.sum(now - requests.c.started)).where(
        requests.c.state == literal_column("'running'")
    )
    ended = select(requests.c.key_id, func.sum(requests.c.inference_time)).where(
        requests.c.finished >= now - 3600 * rules.hours
    )
    for query in (running, ended):
        of_keys = query.where(requests.c.key_id.in_(theirs)).group_by(requests.c.key_id)
        for key, spent in connection.execute(of_keys):
            seconds[theirs[key]] += spent or 0.0
    return {key: seconds[owner] for key, owner in waiting.items()}


def keys_at_limit(transaction: Connection, rules: ShareRules) -> list[str]:
    """The keys whose owners have as many runs as they may have."""
    if rules.running is None:
        return []
    running = select(requests.c.key_id, func.count()).where(requests.c.state == State.RUNNING)
    owners, counts = _owners(transaction), dict[str, int]()
    for key, number in transaction.execute(running.group_by(requests.c.key_id)):
        owner = owners.setdefault(key, key)
        counts[owner] = counts.get(owner, 0) + number
    return [key for key, owner in owners.items() if counts.get(owner, 0) >= rules.running]


def _owners(connection: Connection) -> dict[str, str]:
    """By key. One without an owner, or that is not known, stands for itself."""
    return {id: owner or id for id, owner in connection.execute(select(keys.c.id, keys.c.owner))}


class Positions:
    """How many requests go before a queued one, by priority, then by share, then by age.

    Each waiting client asks ten times a second: shares are summed up once a second at most, and the rest is counted in
    ranges of two indexes.
    """

    def __init__(self, database: Database, rules: ShareRules) -> None:
        self._database, self._rules = database, rules
        self._shares: Mapping[str, float] | None = None
        self._until = 0.0

    def of(self, id: str) -> int:
        """0 also for one that is not in the queue."""
        seconds = self._known_shares()
        if seconds is None:
            rows = self._database.fetch(_BY_AGE, id=id)
            return int(rows[0][0]) if rows else 0
        if not (rows := self._database.fetch(_QUEUED, id=id)):
            return 0
        key_id, priority, place = rows[0]
        own = seconds.get(key_id, 0.0)
        before = [key for key, spent in seconds.items() if spent < own]
        equal = [key_id, *(key for key, spent in seconds.items() if spent == own and key != key_id)]
        before, equal = _padded(before), _padded(equal)
        names = {f"b{index}": key for index, key in enumerate(before)}
        names |= {f"e{index}": key for index, key in enumerate(equal)}
        query = _by_share(len(before), len(equal))
        return int(self._database.fetch(query, priority=priority, place=place, **names)[0][0])

    def _known_shares(self) -> Mapping[str, float] | None:
        if not self._rules.hours:
            return None
        began = time.monotonic()
        if began >= self._until:
            self._shares = self._database.look(lambda connection: shares(connection, self._rules, clock.now()))
            took = time.monotonic() - began
            self._until = began + took + max(_KEEP_SECONDS, took / _MAX_SHARE)
        return self._shares


_QUEUED = text(
    "SELECT key_id, priority, coalesce(place, number) FROM requests WHERE requests.id = :id AND state = 'queued'"
)
# Two counts, each of which is one range of the index; a comparison of pairs would walk a whole priority.
_BY_AGE = text("""
    SELECT (SELECT count(*) FROM requests AS other
            WHERE other.state = 'queued' AND other.priority < this.priority)
         + (SELECT count(*) FROM requests AS other
            WHERE other.state = 'queued' AND other.priority = this.priority
                  AND coalesce(other.place, other.number) < coalesce(this.place, this.number))
    FROM requests AS this WHERE this.id = :id AND this.state = 'queued'
""")


@cache
def _by_share(before: int, equal: int) -> TextClause:
    """Ahead are lower priorities; of the same one keys that have used less; and of equal keys what is older."""
    of_priority = "SELECT count(*) FROM requests WHERE state = 'queued' AND priority"
    counts = [f"{of_priority} < :priority"]
    if before:
        counts.append(f"{of_priority} = :priority AND key_id IN ({_names('b', before)})")
    counts.append(
        f"{of_priority} = :priority AND key_id IN ({_names('e', equal)}) AND coalesce(place, number) < :place"
    )
    return text("SELECT " + " + ".join(f"({count})" for count in counts))


def _names(prefix: str, count: int) -> str:
    return ", ".join(f":{prefix}{index}" for index in range(count))


def _padded(some: list[str]) -> list[str]:
    """With repetitions up to a power of two, so that there are few different queries."""
    return some + some[:1] * ((1 << (len(some) - 1).bit_length()) - len(some)) if some else some
