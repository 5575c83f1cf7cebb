"""Keys have an owner and a role; outputs belong to the key of their request; the queue of a key is found in its order.

A key that there was before could do everything, so it is an operator's. Its name said whose it is.
"""

from __future__ import annotations

import sqlalchemy
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("keys", sqlalchemy.Column("owner", sqlalchemy.Text, nullable=False, server_default=""))
    op.add_column("keys", sqlalchemy.Column("role", sqlalchemy.Text, nullable=False, server_default="member"))
    op.execute("UPDATE keys SET owner = name, role = 'operator'")
    key = "SELECT requests.key_id FROM requests WHERE requests.id = files.request_id"
    op.execute(f"UPDATE files SET key_id = ({key}) WHERE key_id IS NULL AND request_id IS NOT NULL")
    op.drop_index("queue_by_key")
    queued = sqlalchemy.text("state = 'queued'")
    op.create_index(
        "queue_by_key",
        "requests",
        ["key_id", "priority", sqlalchemy.text("coalesce(place, number)")],
        sqlite_where=queued,
        postgresql_where=queued,
        postgresql_include=["place", "number"],
    )
