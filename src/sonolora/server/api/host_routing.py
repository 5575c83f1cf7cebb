"""However a client reaches the server, its requests are mapped to one set of paths here.

In: an HTTP request by host name, by `/proxy` with the header `x-fal-target-url`, or by plain path.
Out: the same request with one of our own paths: /queue/..., /run/..., /rest/..., /cdn/..., /files/... and the like.
Submitting and running are the same call at different published hosts, so the path alone is not enough.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sonolora.core.web_address import AddressError, parse_web_address
from sonolora.server.api.responses import error_response
from sonolora.server.net.urls import HOST_ALIASES

TARGET_HEADER = "x-fal-target-url"
# First segments of our own paths; any other is the owner of an app, in the queue.
_OWN = frozenset(
    {"", "queue", "run", "rest", "cdn", "files", ".well-known", "health", "metrics", "openapi.json", "api", "studio"}
)
# These mean the same at every host.
_SHARED = frozenset({"files", ".well-known", "health"})
_QUEUE_OR_RUN = re.compile(r"/(queue|run)(/|$)")


def canonical_path(host: str, path: str) -> str:
    """Our own path for a path at a host name, ours or a published one."""
    first = path.lstrip("/").partition("/")[0]
    prefix = HOST_ALIASES.get(host.partition(":")[0].lower())
    # The CDN's own paths begin with files/, too.
    if prefix is not None and (first not in _SHARED or (prefix == "/cdn" and first == "files")):
        path = prefix + "/" + path.lstrip("/")
    elif prefix is None and first not in _OWN:
        path = "/queue/" + path.lstrip("/")
    # Users write endpoint ids and hosts in variables with a slash at the end, too.
    return re.sub("/+", "/", path).rstrip("/") or "/" if _QUEUE_OR_RUN.match(path) else path


class HostAliases:
    """ASGI middleware: `app` sees only our own paths."""

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
                await error_response(400, f"Missing the {TARGET_HEADER} header")(scope, receive, send)
                return
            host, path, query = _split_url(target)
            if host not in HOST_ALIASES:
                known = ", ".join(HOST_ALIASES)
                detail = f"Invalid {TARGET_HEADER} header: the host must be one of {known}"
                await error_response(412, detail)(scope, receive, send)
                return
        await self.app({**scope, "path": canonical_path(host, path), "query_string": query}, receive, send)


def _split_url(text: str) -> tuple[str, str, bytes]:
    """Host name, decoded path and query of a URL; the host is empty if it is not one."""
    try:
        url = parse_web_address(text)
    except AddressError:
        return "", "", b""
    path, _, _ = url.raw_path.partition(b"?")
    return url.host, unquote(path.decode("ascii")), url.query
