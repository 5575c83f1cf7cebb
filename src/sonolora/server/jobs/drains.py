"""Nodes and devices that are given no more runs, such as before maintenance."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from sonolora.server.database.database import Database
from sonolora.server.database.tables import drains


@dataclass(frozen=True)
class Drain:
    """`name` is that of a node or of one of its slots; `move`: its runs save their state and go on elsewhere."""

    name: str
    move: bool
    since: float

    def covers(self, slot: str) -> bool:
        return self.name in (slot, slot.rpartition("/")[0])


class Drains:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, *, move: bool) -> None:
        with self._database.transaction() as transaction:
            transaction.execute(delete(drains).where(drains.c.name == name))
            transaction.execute(insert(drains), {"name": name, "move": move, "since": time.time()})

    def remove(self, name: str) -> bool:
        """False when there is none of that name."""
        return self._database.write(delete(drains).where(drains.c.name == name)) > 0

    def all(self) -> list[Drain]:
        return [Drain(row.name, bool(row.move), row.since) for row in self._database.read(select(drains))]


def covering(drains: Iterable[Drain], slot: str) -> Drain | None:
    """The one that a slot falls under."""
    return next((drain for drain in drains if drain.covers(slot)), None)
