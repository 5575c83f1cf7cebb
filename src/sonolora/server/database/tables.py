"""The tables of the server's database: requests and all that belongs to them, keys, webhook deliveries, files.

Times are unix seconds; columns that hold JSON are text. Rows of `requests` and `keys` are never deleted, so what
has been billed and to whom a request belongs stays known. What is large or grows (bodies, logs, metrics) has tables
of its own: the row of a request, which is polled and rewritten all the time, stays small.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


def spelt_out(text: str) -> str:
    """Text from elsewhere as the database takes it: what is not valid Unicode becomes an escape, `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()


class Words(TypeDecorator[str]):
    """Text from elsewhere: a log line with the odd name of a file, an id that somebody made up."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else spelt_out(value)


metadata = MetaData()

requests = Table(
    "requests",
    metadata,
    Column("number", Integer, primary_key=True),  # order of arrival
    Column("id", Words, nullable=False, unique=True),
    Column("endpoint", Words, nullable=False),
    Column("mode", Words, nullable=False),
    Column("key_id", Words, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("start_deadline", Float),
    Column("webhook", Words),
    Column("lifetime", Float),
    Column("no_retry", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("attempts", Integer, nullable=False, default=0),
    Column("cancel_asked", Boolean, nullable=False, default=False),
    Column("progress", Text, nullable=False, default="{}"),  # JSON
    # The result; `status` is null until there is one.
    Column("status", Integer),
    Column("error", Words),
    Column("error_type", Words),
    Column("billable_units", Integer),
    Column("inference_time", Float),
    Column("headers", Text),  # JSON
    Column("result", Text),  # JSON
    CheckConstraint("state IN ('queued', 'running', 'done')", name="known_state"),
    Index("requests_by_time", "created"),
    # The following hold what is not done alone, so they stay small however many requests there have been.
    Index("queue", "priority", "number", sqlite_where=text("state = 'queued'")),
    Index("queue_by_key", "key_id", sqlite_where=text("state = 'queued'")),
    Index("cancels", "number", sqlite_where=text("cancel_asked = 1 AND state != 'done'")),
)

bodies = Table(
    "bodies",
    metadata,
    Column("request_id", Words, ForeignKey("requests.id"), primary_key=True),
    Column("body", Text, nullable=False),  # JSON
)

logs = Table(
    "logs",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("request_id", Words, ForeignKey("requests.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("level", Words, nullable=False),
    Column("message", Words, nullable=False),
    Index("logs_by_request", "request_id", "number"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("request_id", Words, ForeignKey("requests.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("data", Text, nullable=False),  # JSON
)

events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("request_id", Words, ForeignKey("requests.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", Words, nullable=False),
    Column("data", Text, nullable=False),  # JSON
    Index("events_by_request", "request_id", "number"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("sha256", Text, nullable=False),  # of the secret's random part, in hexadecimal digits
    Column("created", Float, nullable=False),
    Column("revoked", Float),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", Words, ForeignKey("requests.id"), nullable=False),
    Column("url", Words, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_try", Float),  # null: delivered or given up
    Column("outcome", Words),  # of the last attempt
    Index("deliveries_by_time", "next_try", sqlite_where=text("next_try IS NOT NULL")),
)

files = Table(
    "files",
    metadata,
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("content_type", Words, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", Text),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("request_id", Words),  # whose output it is
    Column("key_id", Words),  # who uploaded it
    Column("complete", Boolean, nullable=False),
)
