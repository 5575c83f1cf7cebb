"""What Alembic runs before the scripts: they work on the connection of `schema.migrate`, in its transaction."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
