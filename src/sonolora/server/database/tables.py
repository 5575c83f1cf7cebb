"""The tables of the server's database: requests with their bodies, logs and metrics, keys, webhook deliveries, files.

Times are unix seconds; columns that hold JSON are text. Rows of `requests` and `keys` are never deleted, so what
was billed and whose a request is stays known. What is large or grows (bodies, logs, metrics) has tables of its own:
the row of a request, which is polled and rewritten all the time, stays small.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


def valid_unicode(text: str) -> str:
    """`text` with what a database cannot hold, lone surrogates and NUL, replaced by escapes such as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class AnyText(TypeDecorator[str]):
    """Text from outside, which may not be valid Unicode: a log line with a file's name, an id in a URL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else valid_unicode(value)


# 64 bits; SQLite numbers rows by itself only in a column of exactly this type, which has them there.
Number = BigInteger().with_variant(Integer, "sqlite")


def _partial_index(name: str, *columns: TextClause | str, where: str, include: Sequence[str] = ()) -> Index:
    """`include`: columns that Postgres needs beside those of an expression, so as not to look at the table's rows."""
    return Index(
        name, *columns, sqlite_where=text(where), postgresql_where=text(where), postgresql_include=list(include)
    )


metadata = MetaData()

# One row, as Alembic has it: see `schema`.
alembic_version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))

# One row. See `identity`.
store = Table(
    "store",
    metadata,
    Column("id", Text, primary_key=True),
    # Of the write-ahead log, by the server; in Postgres: how often a server has begun to work on the queue.
    Column("checkpoints", Integer, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("number", Number, primary_key=True),  # order of arrival
    Column("id", AnyText, nullable=False, unique=True),
    Column("endpoint", AnyText, nullable=False),
    Column("mode", AnyText, nullable=False),
    Column("key_id", AnyText, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("start_deadline", Float),
    Column("webhook", AnyText),
    Column("lifetime", Float),
    Column("no_retry", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("attempts", Integer, nullable=False, default=0),  # that ended in a crash
    Column("cancel_asked", Boolean, key="cancel_requested", nullable=False, default=False),
    Column("progress", Text, nullable=False, default="{}"),  # JSON
    # The result; `status` is null until there is one.
    Column("status", Integer),
    Column("error", AnyText),
    Column("error_type", AnyText),
    Column("billable_units", Number),
    Column("inference_time", Float),
    Column("headers", Text),  # JSON
    Column("result", Text),  # JSON
    Column("kind", Text, nullable=False, default="train", server_default="train"),
    Column("options", Text, nullable=False, default="{}", server_default="{}"),  # JSON
    Column("paused", Boolean, nullable=False, default=False, server_default="0"),  # stays in the queue, is not started
    Column("place", Float),  # in the queue, where somebody has moved it; null: by arrival
    Column("starts", Integer, nullable=False, default=0, server_default="0"),  # out of the queue: the newest attempt
    Column("gb", Float),  # memory that it needs on a device; null: not counted yet, or not asked for
    CheckConstraint("state IN ('queued', 'running', 'done')", name="known_state"),
    Index("requests_by_time", "created"),
    Index("requests_by_end", "finished"),
    # Partial indexes of what is not done: they stay small however many requests there have been.
    _partial_index(
        "queue", "priority", text("coalesce(place, number)"), where="state = 'queued'", include=("place", "number")
    ),
    _partial_index(
        "queue_by_key",
        "key_id",
        "priority",
        text("coalesce(place, number)"),
        where="state = 'queued'",
        include=("place", "number"),
    ),
    _partial_index("running", "number", where="state = 'running'"),
    Index(
        "cancels",
        "number",
        sqlite_where=text("cancel_asked = 1 AND state != 'done'"),
        postgresql_where=text("cancel_asked AND state != 'done'"),
    ),
)

bodies = Table(
    "bodies",
    metadata,
    Column("request_id", AnyText, ForeignKey("requests.id"), primary_key=True),
    Column("body", Text, nullable=False),  # JSON
)

logs = Table(
    "logs",
    metadata,
    Column("number", Number, primary_key=True),
    Column("request_id", AnyText, ForeignKey("requests.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("level", AnyText, nullable=False),
    Column("message", AnyText, nullable=False),
    Index("logs_by_request", "request_id", "number"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("request_id", AnyText, ForeignKey("requests.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("data", Text, nullable=False),  # JSON
)

events = Table(
    "events",
    metadata,
    Column("number", Number, primary_key=True),
    Column("request_id", AnyText, ForeignKey("requests.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", AnyText, nullable=False),
    Column("data", Text, nullable=False),  # JSON
    Index("events_by_request", "request_id", "number"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("sha256", Text, nullable=False),  # of the secret's random part, hexadecimal
    Column("created", Float, nullable=False),
    Column("revoked", Float),
    Column("owner", AnyText, nullable=False, server_default=""),  # the person or team that it is of
    Column("role", Text, nullable=False, server_default="member"),
)

# Nodes and devices that are given no more runs.
drains = Table(
    "drains",
    metadata,
    Column("name", Text, primary_key=True),
    Column("move", Boolean, nullable=False),
    Column("since", Float, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Number, primary_key=True),
    Column("request_id", AnyText, ForeignKey("requests.id"), nullable=False),
    Column("url", AnyText, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_try", Float),  # null: delivered or abandoned
    Column("outcome", AnyText),  # of the last attempt
    _partial_index("deliveries_by_time", "next_try", where="next_try IS NOT NULL"),
)

files = Table(
    "files",
    metadata,
    Column("id", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("content_type", AnyText, nullable=False),
    Column("size", Number, nullable=False),
    Column("sha256", Text),
    Column("mtime_ns", Number),  # of the content when it was hashed, as the file system gives it
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("request_id", AnyText),  # whose output it is
    Column("key_id", AnyText),  # of whoever uploaded it, or whose request it is an output of
    Column("complete", Boolean, nullable=False),
)
