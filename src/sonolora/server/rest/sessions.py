"""Who a browser is: a session in a signed cookie, begun with a key or with a link that works once.

In: requests. Out: the key behind a session. The cookie is `HttpOnly` and `SameSite=Strict`; it ends when its key is
revoked, and after thirty days. A request that changes something is taken from a session only when it comes from the
page itself: browsers say so in `Origin`, which pages cannot set.
"""

from __future__ import annotations

import secrets
import time
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.files.secret import is_signed, signature
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import Key, Role
from sonolora.server.settings import ServerSettings

COOKIE = "sonolora_session"
SESSION_SECONDS = 30 * 86_400
LINK_SECONDS = 3600.0
ADDRESS_SECONDS = 86_400  # that a signed address of an output is valid at least
_SAFE = ("GET", "HEAD", "OPTIONS")


class Sessions:
    """For one server, whose secret signs everything."""

    def __init__(self, keys: Keys, settings: ServerSettings, secret: bytes) -> None:
        self._keys, self._settings, self._secret = keys, settings, secret
        self._links: dict[str, float] = {}  # tickets that have not been used, with the time at which they end

    def new_link(self) -> str:
        """A ticket that begins one session, with the oldest valid key of an operator, within an hour."""
        ticket = secrets.token_urlsafe(24)
        self._links[ticket] = time.monotonic() + LINK_SECONDS
        return ticket

    async def redeem(self, ticket: str) -> Key | None:
        """The key that the ticket stands for, once."""
        ends = self._links.pop(ticket, None)
        if ends is None or ends < time.monotonic():
            return None
        valid = [key for key in await self._keys.reading(self._keys.all) if key.revoked is None]
        return next((key for key in valid if key.role == Role.OPERATOR), valid[0] if valid else None)

    def begin(self, response: Response, request: Request, key: Key) -> None:
        """Set the cookie."""
        expires = int(time.time()) + SESSION_SECONDS
        value = f"{key.id}.{expires}.{signature(self._secret, 'session', key.id, expires)}"
        response.set_cookie(
            COOKIE,
            value,
            max_age=SESSION_SECONDS,
            path=self._path,
            secure=self._is_secure(request),
            httponly=True,
            samesite="strict",
        )

    def end(self, response: Response) -> None:
        """Delete the cookie."""
        response.delete_cookie(COOKIE, path=self._path, httponly=True, samesite="strict")

    def key_of(self, request: Request) -> Key | None:
        """The key of the request's session. Raises `RejectedError` (403) for a change that another site asks for."""
        id, _, rest = request.cookies.get(COOKIE, "").partition(".")
        expires, _, signed = rest.partition(".")
        if not is_signed(self._secret, signed, "session", id, expires):
            return None
        if request.method not in _SAFE and not self.is_same_origin(request):
            raise RejectedError(error_response(403, "This request comes from another site than the page."))
        return self._keys.valid(id)

    def is_same_origin(self, request: Request) -> bool:
        """Whether the page itself has sent it."""
        origin = request.headers.get("origin")
        if origin is None:
            return request.headers.get("sec-fetch-site") == "same-origin"
        own = {request.headers.get("host", ""), urlsplit(self._settings.public_url or "").netloc} - {""}
        return urlsplit(origin).netloc in own

    def sign(self, path: str) -> str:
        """The address of an output that needs no key for a day or two; the same one all day, so that caches work."""
        expires = (int(time.time()) // ADDRESS_SECONDS + 2) * ADDRESS_SECONDS
        return f"{path}?expires={expires}&signature={signature(self._secret, 'output', path, expires)}"

    def is_signed(self, request: Request) -> bool:
        """Whether the address carries our signature."""
        query = request.query_params
        signed, path = query.get("signature", ""), request.url.path.lstrip("/")
        return is_signed(self._secret, signed, "output", path, query.get("expires", ""))

    @property
    def _path(self) -> str:
        return urlsplit(self._settings.public_url or "").path.rstrip("/") + "/"

    def _is_secure(self, request: Request) -> bool:
        public = self._settings.public_url or ""
        return public.startswith("https://") or request.url.scheme == "https"
