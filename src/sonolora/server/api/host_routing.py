"""The ways in. However a client is pointed at us, its requests are mapped to one set of paths here.

In: an HTTP request by host name, by `/proxy` with the header `x-fal-target-url`, or by plain path.
Out: the same request with one of our own paths: /queue/..., /run/..., /rest/..., /cdn/..., /files/... and the like.
Submitting and running are the same call at different published hosts, which is why paths alone do not do.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sonolora.server.api.answers import refusal
from sonolora.server.net.urls import HOST_ALIASES

TARGET_HEADER = "x-fal-target-url"
# First parts of our own paths; whatever else a path begins with is the owner of an app, at the face of the queue.
_OWN = frozenset({"", "queue", "run", "rest", "cdn", "files", ".well-known", "health", "openapi.json"})
# These mean the same at every host.
_SHARED = frozenset({"files", ".well-known", "health"})
_QUEUE_OR_RUN = re.compile(r"/(queue|run)(/|$)")


def canonical_path(host: str, path: str) -> str:
    """Our own path for a path at a host name, ours or a published one."""
    first = path.lstrip("/").partition("/")[0]
    face = HOST_ALIASES.get(host.partition(":")[0].lower())
    # Our CDN's own paths begin with files/, too.
    if face is not None and (first not in _SHARED or (face == "/cdn" and first == "files")):
        path = face + "/" + path.lstrip("/")
    elif face is None and first not in _OWN:
        path = "/queue/" + path.lstrip("/")
    # Endpoint ids are written with a slash at the end, and hosts in variables, too.
    return re.sub("/+", "/", path).rstrip("/") or "/" if _QUEUE_OR_RUN.match(path) else path


class HostAliases:
    """ASGI middleware: `app` sees our own paths alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, path, query = headers.get("host", ""), scope["path"], scope["query_string"]
        if path == "/proxy" or path.startswith("/proxy/"):
            target = headers.get(TARGET_HEADER)
            if target is None:
                await refusal(400, f"Missing the {TARGET_HEADER} header")(scope, receive, send)
                return
            host, path, query = _taken_apart(target)
            if host not in HOST_ALIASES:
                await refusal(412, f"Invalid {TARGET_HEADER} header: it must lead to one of {', '.join(HOST_ALIASES)}")(
                    scope, receive, send
                )
                return
        await self.app({**scope, "path": canonical_path(host, path), "query_string": query}, receive, send)


def _taken_apart(url: str) -> tuple[str, str, bytes]:
    """Host name, decoded path and query; the host is empty when it is no URL."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").lower(), unquote(parts.path) or "/", parts.query.encode("ascii")
    except ValueError:
        return "", "", b""
