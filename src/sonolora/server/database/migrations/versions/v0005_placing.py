"""Requests have the memory that they need; what ended of late is found at once; devices that take no more runs."""

from __future__ import annotations

import sqlalchemy
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("requests", sqlalchemy.Column("gb", sqlalchemy.Float))
    op.create_index("requests_by_end", "requests", ["finished"])
    op.create_table(
        "drains",
        sqlalchemy.Column("name", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("move", sqlalchemy.Boolean, nullable=False),
        sqlalchemy.Column("since", sqlalchemy.Float, nullable=False),
    )
