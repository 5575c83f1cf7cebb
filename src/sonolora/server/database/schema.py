"""The version of the tables: new ones made, older ones migrated by the scripts in `migrations/`, of both dialects.

In: a connection in a transaction. Out: the tables of this version, or an error and the tables as they were. Alembic
carries out migrations, and is loaded only then.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, func, insert, inspect, select

from sonolora.server.database.tables import alembic_version, metadata, store

VERSION = 6  # of `tables`: the revision of the newest script
FIRST = 3  # the version that the first script migrates
SCRIPTS = Path(__file__).parent / "migrations"


def version(connection: Connection) -> int:
    """0 where there are no tables, or those of a version before the first script."""
    if not inspect(connection).has_table(alembic_version.name):
        return 0
    return int(connection.execute(select(alembic_version.c.version_num)).scalar_one())


def create(connection: Connection) -> None:
    """All tables, of this version."""
    metadata.create_all(connection)
    connection.execute(insert(alembic_version), {"version_num": f"{VERSION:04}"})
    add_id(connection)


def add_id(connection: Connection) -> None:
    """Give the database its id, if it has none."""
    if not connection.execute(select(func.count()).select_from(store)).scalar_one():
        connection.execute(insert(store), {"id": uuid4().hex, "checkpoints": 0})


def begin_scripts(connection: Connection) -> None:
    """Note that the tables are of the version that the first script migrates."""
    alembic_version.create(connection)
    connection.execute(insert(alembic_version), {"version_num": f"{FIRST:04}"})


def migrate(connection: Connection) -> None:
    """Bring older tables up to this version."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    command.upgrade(config, f"{VERSION:04}")
