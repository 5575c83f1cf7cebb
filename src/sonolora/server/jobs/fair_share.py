"""The order in which keys have their turn: the key whose runs took the least time of late goes first.

In: a transaction on the queue. Out: what the claim of the next request orders by. With one key in the queue there is
nothing to share, and nothing is summed up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from sonolora.server.database.tables import requests
from sonolora.server.jobs.records import State


@dataclass(frozen=True)
class ShareRules:
    """`hours`: how far back runs count, 0 for turns by age alone. `running`: how many runs a key may have at a time."""

    hours: float = 0.0
    running: int | None = None


def share_order(transaction: Connection, rules: ShareRules, now: float) -> ColumnElement[Any] | None:
    """The seconds of device time of a request's key; None where there is nothing to share."""
    queued = requests.c.state == literal_column("'queued'")
    if not rules.hours:
        return None
    # Two ends of an index, which tell whether there is more than one key, however long the queue is.
    ends = [select(end(requests.c.key_id)).where(queued).scalar_subquery() for end in (func.min, func.max)]
    first, last = transaction.execute(select(*ends)).one()
    if first == last:
        return None
    keys = [row.key_id for row in transaction.execute(select(requests.c.key_id).distinct().where(queued))]
    seconds: dict[str, float] = dict.fromkeys(keys, 0.0)
    running = select(requests.c.key_id, func.sum(now - requests.c.started)).where(
        requests.c.state == literal_column("'running'")
    )
    ended = select(requests.c.key_id, func.sum(requests.c.inference_time)).where(
        requests.c.finished >= now - 3600 * rules.hours
    )
    for query in (running, ended):
        of_keys = query.where(requests.c.key_id.in_(keys)).group_by(requests.c.key_id)
        for key, spent in transaction.execute(of_keys):
            seconds[key] += spent or 0.0
    return case(seconds, value=requests.c.key_id, else_=0.0)


def keys_at_limit(transaction: Connection, rules: ShareRules) -> list[str]:
    """The keys that have as many runs as they may have."""
    if rules.running is None:
        return []
    running = select(requests.c.key_id).where(requests.c.state == State.RUNNING).group_by(requests.c.key_id)
    return [row.key_id for row in transaction.execute(running.having(func.count() >= rules.running))]
