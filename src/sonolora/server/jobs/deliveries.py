"""The results that are to be posted to webhooks; `Store.finish` adds one for a request that named a webhook."""

from __future__ import annotations

from sqlalchemy import or_, select, update

from sonolora.server.database.database import Database
from sonolora.server.database.tables import deliveries
from sonolora.server.jobs.records import Delivery


class Deliveries:
    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now: float, max_delay: float) -> list[Delivery]:
        """Those whose time has come, and those further away than `max_delay` seconds: a wrong clock has set them."""
        is_due = or_(deliveries.c.next_try <= now, deliveries.c.next_try > now + max_delay)
        due = select(deliveries).where(is_due)
        return [Delivery(*row) for row in self._database.read(due.order_by(deliveries.c.next_try))]

    def record_attempt(self, id: int, outcome: str, next_try: float | None) -> None:
        """Count an attempt; `next_try` is None when it was the last, delivered or not."""
        values = {"attempts": deliveries.c.attempts + 1, "outcome": outcome, "next_try": next_try}
        self._database.write(update(deliveries).where(deliveries.c.id == id).values(values))
