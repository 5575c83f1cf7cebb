from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest

from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import Key


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def test_made_checked_revoked(keys: Keys) -> None:
    id, secret = keys.add("laptop")
    other, other_secret = keys.add("ci")
    assert secret.startswith(f"{id}:")
    key = keys.check(secret)
    assert key and (key.id, key.name, key.revoked) == (id, "laptop", None)
    digits = secret.partition(":")[2]
    for wrong in ("", ":", id, f"{id}:", f"{other}:{digits}", f"{secret}0", secret.upper(), digits, "\udcff:é"):
        assert keys.check(wrong) is None
    assert keys.is_valid(id) and not keys.is_valid("?") and not keys.is_valid("\udcff")
    assert keys.revoke(id)
    assert not keys.revoke(id) and not keys.revoke("?")
    assert keys.check(secret) is None and not keys.is_valid(id)
    assert keys.check(other_secret) == Key(other, "ci", keys.all()[1].created)
    assert [(key.id, key.revoked is None) for key in keys.all()] == [(id, False), (other, True)]


def test_the_file_does_not_hold_the_secret(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        _, secret = Keys(database).add("laptop")
    random = secret.partition(":")[2]
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert random.encode() not in content and bytes.fromhex(random) not in content
    assert hashlib.sha256(random.encode()).hexdigest().encode() in content
