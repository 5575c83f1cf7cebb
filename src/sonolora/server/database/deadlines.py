"""The deadlines that the database holds, moved when the system's clock is set."""

from __future__ import annotations

from sqlalchemy import Column, case, update

from sonolora.server.database.database import Database
from sonolora.server.database.tables import deliveries, files, requests


def shift_deadlines(database: Database, jump: float, now: float) -> None:
    """Move what waits by `jump` seconds, so that as much time is left of it as before.

    `now` is the time after the jump: nothing gets more time than it had when it was created, which it would if its
    deadline was set under another clock. Uploads that are not complete count from now on.
    """

    def moved(deadline: Column[float], created: Column[float]) -> object:
        as_much = deadline + jump
        as_at_first = now + deadline - created
        return case((as_much < as_at_first, as_much), else_=as_at_first)

    waiting = (requests.c.state == "queued") & requests.c.start_deadline.is_not(None)
    with database.transaction() as transaction:
        new_deadline = moved(requests.c.start_deadline, requests.c.created)
        transaction.execute(update(requests).where(waiting).values(start_deadline=new_deadline))
        next_try = deliveries.c.next_try + jump
        transaction.execute(update(deliveries).where(deliveries.c.next_try.is_not(None)).values(next_try=next_try))
        new_expiry = moved(files.c.expires, files.c.created)
        transaction.execute(update(files).where(files.c.expires.is_not(None)).values(expires=new_expiry))
        transaction.execute(update(files).where(files.c.complete.is_(False)).values(created=now))
