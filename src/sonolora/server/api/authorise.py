"""Who asks: the key in a request's header, and what it gives access to.

In: a request. Out: an `Access`, or the response that refuses (401 without a valid key, 403 where it must be an
operator's). What an `Access` does not reach is answered as if it were not there.
"""

from __future__ import annotations

from starlette.requests import Request

from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.jobs.keys import Access, Keys
from sonolora.server.jobs.records import Key
from sonolora.server.logs import note

HINT = "send the header 'Authorization: Key <your key>'."


def authorise(keys: Keys, request: Request) -> Access:
    """By the header."""
    return access_with(keys, key_in_header(keys, request), f"No valid key: {HINT}")


def key_in_header(keys: Keys, request: Request) -> Key | None:
    """The valid key that the header holds."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return keys.check(secret.strip()) if scheme.lower() in ("key", "bearer") else None


def access_with(keys: Keys, key: Key | None, detail: str) -> Access:
    """Raises `RejectedError` (401) without a key."""
    if key is None:
        raise RejectedError(error_response(401, detail, headers={"www-authenticate": "Key"}))
    note(key=key.id, owner=key.owner)
    return Access(key, keys)


def for_operators(access: Access) -> None:
    """Raises `RejectedError` (403) for a member."""
    if not access.is_operator:
        raise RejectedError(error_response(403, "This needs the key of an operator."))
