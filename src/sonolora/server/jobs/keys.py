"""The keys of those who may use the server. A key's secret is shown once; the database holds its hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from sqlalchemy import bindparam, insert, select, update

from sonolora.server.database.database import Database
from sonolora.server.database.tables import keys, valid_unicode
from sonolora.server.jobs.records import Key

_VALID = select(*keys.c["id", "name", "created", "sha256"]).where(
    keys.c.id == bindparam("id"), keys.c.revoked.is_(None)
)


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.reading = database.reading

    def add(self, name: str) -> tuple[str, str]:
        """Make a key. Returns its id and its secret, `<id>:<64 hexadecimal digits>`, which cannot be shown again."""
        id, random = secrets.token_hex(8), secrets.token_hex(32)
        # 256 random bits cannot be guessed from their hash, so a fast one will do.
        row = {"id": id, "name": name, "sha256": _sha256(random), "created": time.time()}
        self._database.write(insert(keys), row)
        return id, f"{id}:{random}"

    def all(self) -> list[Key]:
        """The oldest first, revoked ones included."""
        columns = keys.c["id", "name", "created", "revoked"]
        return [Key(*row) for row in self._database.read(select(*columns).order_by(keys.c.created))]

    def revoke(self, id: str) -> bool:
        """False when there is no such key, or it is revoked already."""
        valid = update(keys).where(keys.c.id == id, keys.c.revoked.is_(None))
        return self._database.write(valid.values(revoked=time.time())) > 0

    def check(self, secret: str) -> Key | None:
        """The key that a secret belongs to, unless it is revoked."""
        id, _, random = secret.partition(":")
        rows = self._database.fetch(_VALID, id=valid_unicode(id))
        # In constant time, which does not tell how many digits were right.
        if not rows or not hmac.compare_digest(rows[0][-1], _sha256(random)):
            return None
        return Key(*rows[0][:-1])

    def valid(self, id: str) -> Key | None:
        """The key of that id, unless it is revoked."""
        rows = self._database.fetch(_VALID, id=valid_unicode(id))
        return Key(*rows[0][:-1]) if rows else None

    def is_valid(self, id: str) -> bool:
        """Whether there is a key of that id that is not revoked."""
        return self.valid(id) is not None


def _sha256(text: str) -> str:
    return hashlib.sha256(valid_unicode(text).encode()).hexdigest()
