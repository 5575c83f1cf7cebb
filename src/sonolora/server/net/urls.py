"""URLs: the names that the server answers to, the URLs it gives out, and those that requests may contain.

In: a request, the settings or a URL. Out: the beginnings of URLs, or what is wrong with one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from sonolora.core.web_address import AddressError, parse_web_address
from sonolora.server.settings import ServerSettings

# The published host names, and the prefix of our own paths that stands for each.
HOST_ALIASES = {
    "queue.fal.run": "/queue",
    "fal.run": "/run",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",  # older clients
    "v3.fal.media": "/cdn",
}
# Hosts to listen at that stand for all addresses, and where this machine reaches them.
WILDCARD_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# URLs of data as OpenAPI describes them, in what all dialects of regular expressions share. Names in other scripts and
# IPv6 addresses in brackets are accepted, too.
_HOST_AND_PORT = r"[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*\.?(:[1-9][0-9]{0,3})?"
URL_PATTERN = (
    rf"^([Hh][Tt][Tt][Pp][Ss]?://{_HOST_AND_PORT}([/?#][^\x00-\x1f\x7f]*)?|[Dd][Aa][Tt][Aa]:[^,]*,[^\x00-\x1f\x7f]*)$"
)
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_INVALID = "value must be a valid URL"  # as published


def own_address(settings: ServerSettings) -> str:
    """The server's URL outside of any request: the public URL, or the host, or this machine's name, and the port."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = socket.gethostname() if settings.host in WILDCARD_HOSTS else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}"


def is_own_url(url: str, settings: ServerSettings) -> bool:
    """Whether the host and port of a URL are surely this server's, which may have names that it does not know."""
    origin = _origin(url)
    if origin is None:
        return False
    own_hosts = {"localhost", "127.0.0.1", "::1", settings.host.lower(), socket.gethostname().lower()}
    host, port = origin
    return origin == _origin(settings.public_url or "") or (
        host in own_hosts and port in (settings.port, settings.tls_port)
    )


def base_url(request: Request, settings: ServerSettings) -> str:
    """The beginning of the URLs in the response to this request, without a slash at the end.

    A client can use the host it used before. Only a published host name, which leads here in the environment of the
    client but not in a browser, say, is replaced if the request came from this machine.
    """
    host = request.headers.get("host", "")
    if (
        settings.public_url
        or not _HOST.fullmatch(host)
        or (settings.on_loopback and host.split(":")[0].lower() in HOST_ALIASES)
    ):
        return own_address(settings)
    return f"{request.scope['scheme']}://{host}"


def request_urls(base: str, app: str, id: str) -> dict[str, str]:
    """The three URLs of a queued request of an app, in the form without the sub-path."""
    url = f"{base}/{app}/requests/{id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def holds_address(name: str) -> bool:
    """Whether a field of that name holds a URL."""
    return name.endswith("_url") or name == "path"


def with_file_urls(body: Any, url_of: Callable[[str], str]) -> Any:
    """The body of a result with the URLs of its files, which are stored as paths."""
    match body:
        case {"url": str(path)} if path.startswith("/files/"):
            return {**body, "url": url_of(path)}
        case dict():
            return {key: with_file_urls(value, url_of) for key, value in body.items()}
        case list():
            return [with_file_urls(value, url_of) for value in body]
        case _:
            return body


def data_url_fault(value: str) -> str | None:
    """What is wrong with a URL to fetch data from."""
    scheme = value.partition(":")[0].lower()
    if scheme == "data":
        return None if "," in value else f"{_INVALID}: a data: URI needs a comma before its content"
    if scheme not in ("http", "https"):
        return f"{_INVALID}: it must begin with http://, https:// or data:"
    try:
        parse_web_address(value)
    except AddressError as error:
        return f"{_INVALID}: {error}"
    return None


def _origin(url: str) -> tuple[str, int] | None:
    """Host and port."""
    try:
        parsed = parse_web_address(url)
    except AddressError:
        return None
    return parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80)
