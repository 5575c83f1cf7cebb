"""Addresses: what we are reached by, what requests may point at, and the paths of a request in the queue.

In: a request or the settings. Out: text that starts URLs, or that says what is wrong with one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from sonolora.modes import MODES
from sonolora.server.settings import ServerSettings

APP = "fal-ai/ltx23-trainer-v2"
# The endpoints, which are paths below the app, and their modes.
ENDPOINTS: Mapping[str, str] = {**{name: name for name in MODES}, "ic-lora/a2a": "a2a"}
ENDPOINT_PATHS = ", ".join(f"/{APP}/{endpoint}" for endpoint in ENDPOINTS)  # for people
# A published host name and the face that it shows: the first part of our own paths.
HOST_ALIASES = {
    "queue.fal.run": "/queue",
    "fal.run": "/run",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",  # older clients
    "v3.fal.media": "/cdn",
}
# Hosts to listen at that stand for all addresses, and where this machine reaches them.
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# How what a field points at must begin; fetching says the rest. The OpenAPI description has the same expression, so
# that it must mean the same in every dialect, which \s does not.
URL_PATTERN = r"^([Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20/?#]+|[Dd][Aa][Tt][Aa]:[^,]*,)"
_URL = re.compile(URL_PATTERN)
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


def own_address(settings: ServerSettings) -> str:
    """Where we are without a request to tell: the public URL, or the host, or its name, and the port."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = socket.gethostname() if settings.host in EVERY_ADDRESS else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}"


def leads_here(url: str, settings: ServerSettings) -> bool:
    """Whether the host and the port of a URL are surely ours. We may have more names than we know of."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    except ValueError:
        return False
    host, public = (parts.hostname or "").lower(), urlsplit(settings.public_url or "")
    if public.netloc and parts.netloc.lower() == public.netloc.lower():
        return True
    ours = {"localhost", "127.0.0.1", "::1", settings.host.lower(), socket.gethostname().lower()}
    return host in ours and port in (settings.port, settings.tls_port)


def base_url(request: Request, settings: ServerSettings) -> str:
    """What URLs in the answer to this request start with, without a slash at the end.

    The way that the request came is a way that its sender can go again. Only a published host name, which leads to
    us in the client's environment but not in, say, its browser, is replaced when it came from this same machine.
    """
    host = request.headers.get("host", "")
    if (
        settings.public_url
        or not _HOST.fullmatch(host)
        or (settings.on_loopback and host.split(":")[0].lower() in HOST_ALIASES)
    ):
        return own_address(settings)
    return f"{request.scope['scheme']}://{host}"


def request_urls(base: str, id: str) -> dict[str, str]:
    """The three addresses of a queued request, in the form without the sub-path."""
    url = f"{base}/{APP}/requests/{id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def absolute(body: Any, base: str) -> Any:
    """The body of a result with its file addresses, which are stored as paths, made whole."""
    match body:
        case {"url": str(path)} if path.startswith("/files/"):
            return {**body, "url": base + path}
        case dict():
            return {key: absolute(value, base) for key, value in body.items()}
        case _:
            return body


def is_url(value: str) -> bool:
    """Whether a field may hold it: http, https or data."""
    return _URL.match(value) is not None


def is_http_url(value: str) -> bool:
    """Whether something can be sent there."""
    return is_url(value) and value[:5].lower() != "data:" and value.isprintable()
