from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest

from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.keys import KeyOwnerError, Keys
from sonolora.server.jobs.records import Key, Role


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
    assert keys.check(other_secret) == Key(other, "ci", keys.all()[1].created, "ci", Role.MEMBER)
    assert [(key.id, key.revoked is None) for key in keys.all()] == [(id, False), (other, True)]


def test_the_first_key_is_an_operators_and_while_there_is_one_the_others_are_members(keys: Keys) -> None:
    first = keys.add("laptop")[0]
    assert [key.role for key in keys.all()] == [Role.OPERATOR]
    member = keys.find(keys.add("ci", owner="  the   studio ")[0])
    assert member and (member.role, member.owner, member.name) == (Role.MEMBER, "the studio", "ci")
    keys.revoke(first)
    again = keys.find(keys.add("desk")[0])
    assert again and again.role == Role.OPERATOR
    for nobody in ("", " \n"):
        with pytest.raises(KeyOwnerError, match="needs a name"):
            keys.add("x", owner=nobody)


def test_a_member_reaches_what_keys_of_its_owner_have_made_and_an_operator_everything(keys: Keys) -> None:
    (operator, own, same, other) = (
        keys.add(name, owner=owner, role=role)[0]
        for name, owner, role in (
            ("desk", "Ada", Role.OPERATOR),
            ("laptop", "Jo", Role.MEMBER),
            ("ci", "Jo", Role.MEMBER),
            ("x", "Sam", Role.MEMBER),
        )
    )
    reached = {
        id: [one for one in (operator, own, same, other, None, "?") if keys.access_of(id).covers(one)]
        for id in (operator, own, other)
    }
    assert reached == {
        operator: [operator, own, same, other, None, "?"],
        own: [own, same],
        other: [other],
    }
    assert keys.access_of(operator).key_ids() is None
    assert keys.access_of(own).key_ids() == [own, same]
    keys.revoke(same)
    assert keys.access_of(own).covers(same), "what it has made is still the owner's"
    assert keys.change(same, owner="Sam") and not keys.change("?", owner="Sam")
    assert not keys.access_of(own).covers(same) and keys.access_of(other).covers(same)
    assert keys.change(own, role=Role.OPERATOR) and keys.access_of(own).covers(other)
    unknown = keys.access_of("?")
    assert [unknown.covers(one) for one in ("?", own, None)] == [True, False, False]


def test_the_file_does_not_hold_the_secret(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        _, secret = Keys(database).add("laptop")
    random = secret.partition(":")[2]
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert random.encode() not in content and bytes.fromhex(random) not in content
    assert hashlib.sha256(random.encode()).hexdigest().encode() in content
