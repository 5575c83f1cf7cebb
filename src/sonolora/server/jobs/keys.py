"""The keys of those who may use the server, and what each gives access to.

A key's secret is shown once; the database holds its hash. A key has an owner and a role. What is made with it, such as
a request, an upload or a dataset, belongs to its owner, whatever other keys the owner has.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import bindparam, insert, select, update

from sonolora.core.errors import SonoloraError
from sonolora.server.database.database import Database
from sonolora.server.database.tables import keys, valid_unicode
from sonolora.server.jobs.records import Key, Role

_COLUMNS = keys.c["id", "name", "created", "owner", "role", "revoked"]
_KEY = select(*_COLUMNS, keys.c.sha256).where(keys.c.id == bindparam("id"))


class KeyOwnerError(SonoloraError):
    """The owner has no name."""


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.reading = database.reading

    def add(self, name: str, *, owner: str | None = None, role: Role | None = None) -> tuple[str, str]:
        """Make a key. Returns its id and its secret, `<id>:<64 hexadecimal digits>`, which cannot be shown again.

        By default the owner is the name, and the role that of a member once there is an operator.
        """
        if role is None:
            role = Role.MEMBER if any(self._is_operator(key) for key in self.all()) else Role.OPERATOR
        id, random = secrets.token_hex(8), secrets.token_hex(32)
        # 256 random bits cannot be guessed from their hash, so a fast one will do.
        row = {"id": id, "name": name, "sha256": _sha256(random), "created": time.time()}
        self._database.write(insert(keys), {**row, "owner": _owner(name if owner is None else owner), "role": role})
        return id, f"{id}:{random}"

    def change(self, id: str, *, owner: str | None = None, role: Role | None = None) -> bool:
        """Give a key another owner, with all that was made with it, or another role. False when there is none."""
        values = {} if owner is None else {"owner": _owner(owner)}
        changed = update(keys).where(keys.c.id == id).values(**values, **({} if role is None else {"role": role}))
        return self._database.write(changed) > 0

    def all(self) -> list[Key]:
        """The oldest first, revoked ones included."""
        return [_key(row) for row in self._database.read(select(*_COLUMNS).order_by(keys.c.created))]

    def revoke(self, id: str) -> bool:
        """False when there is no such key, or it is revoked already."""
        valid = update(keys).where(keys.c.id == id, keys.c.revoked.is_(None))
        return self._database.write(valid.values(revoked=time.time())) > 0

    def check(self, secret: str) -> Key | None:
        """The key that a secret belongs to, unless it is revoked."""
        id, _, random = secret.partition(":")
        rows = self._database.fetch(_KEY, id=valid_unicode(id))
        # In constant time, which does not tell how many digits were right.
        if not rows or not hmac.compare_digest(rows[0][-1], _sha256(random)):
            return None
        return _unless_revoked(_key(rows[0]))

    def find(self, id: str) -> Key | None:
        """The key of that id, revoked or not."""
        rows = self._database.fetch(_KEY, id=valid_unicode(id))
        return _key(rows[0]) if rows else None

    def valid(self, id: str) -> Key | None:
        """The key of that id, unless it is revoked."""
        return _unless_revoked(self.find(id))

    def is_valid(self, id: str) -> bool:
        """Whether there is a key of that id that is not revoked."""
        return self.valid(id) is not None

    def access_of(self, id: str) -> Access:
        """What the key of that id gives access to, revoked or not: its requests go on."""
        return Access(self.find(id) or Key(id, id, 0.0, "", Role.MEMBER), self)

    @staticmethod
    def _is_operator(key: Key) -> bool:
        return key.role == Role.OPERATOR and key.revoked is None


class Owned(Protocol):
    """A request, a stored file, a dataset."""

    @property
    def key_id(self) -> str | None: ...


T = TypeVar("T", bound=Owned)


@dataclass(frozen=True)
class Access:
    """What a key gives access to; the one place that decides it. What is nobody's is for operators."""

    key: Key
    keys: Keys

    @property
    def is_operator(self) -> bool:
        return self.key.role == Role.OPERATOR

    def covers(self, key_id: str | None) -> bool:
        """Whether it reaches what was made with that key."""
        if self.is_operator or key_id == self.key.id:
            return True
        other = None if key_id is None else self.keys.find(key_id)
        return other is not None and self.covers_key(other)

    def own(self, found: T | None) -> T | None:
        """The object, or None, as if there were none, when it is out of reach."""
        return found if found is not None and self.covers(found.key_id) else None

    def key_ids(self) -> list[str] | None:
        """The keys whose objects are within reach; None: all."""
        return None if self.is_operator else [key.id for key in self.keys.all() if self.covers_key(key)]

    def owners(self) -> dict[str | None, str]:
        """The owner of each key within reach, by its id."""
        return {key.id: key.owner for key in self.keys.all() if self.covers_key(key)}

    def covers_key(self, key: Key) -> bool:
        """Whether a key itself is within reach: an operator's are all, a member's those of its owner."""
        return self.is_operator or key.id == self.key.id or key.owner == self.key.owner != ""


def _key(row: Sequence[object]) -> Key:
    id, name, created, owner, role, revoked, *_ = row
    return Key(id, name, created, owner, Role(role), revoked)  # type: ignore[arg-type] # types of the table's columns


def _unless_revoked(key: Key | None) -> Key | None:
    return key if key is not None and key.revoked is None else None


def _owner(name: str) -> str:
    if not (stripped := " ".join(name.split())):
        raise KeyOwnerError("the owner of a key needs a name: a person or a team")
    return stripped[:120]


def _sha256(text: str) -> str:
    return hashlib.sha256(valid_unicode(text).encode()).hexdigest()
