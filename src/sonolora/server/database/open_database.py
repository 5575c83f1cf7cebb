"""The database of a server by its address: a file of SQLite, or the URL of a Postgres database."""

from __future__ import annotations

from pathlib import Path

from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase


def open_database(address: Path | str) -> Database:
    """Raises `StoreError` when it cannot be used."""
    if isinstance(address, Path):
        return SqliteDatabase(address)
    from sonolora.server.database.postgres import PostgresDatabase

    return PostgresDatabase(address)
