"""Requests count how often they have been started, which numbers the attempts; the running ones are found at once."""

from __future__ import annotations

import sqlalchemy
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    starts = sqlalchemy.Column("starts", sqlalchemy.Integer, nullable=False, server_default="0")
    op.add_column("requests", starts)
    running = sqlalchemy.text("state = 'running'")
    op.create_index("running", "requests", ["number"], sqlite_where=running, postgresql_where=running)
