"""The tables that there were before there were scripts; `sqlite` brings older ones here."""

from __future__ import annotations

revision = "0003"
down_revision = None


def upgrade() -> None:
    """New tables are made by `schema.create`."""
