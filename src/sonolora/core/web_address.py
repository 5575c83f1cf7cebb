"""The one parser of http and https addresses: of requests, options, webhooks and redirects.

In: text. Out: an `httpx.URL` whose parts can all be read, or `AddressError`. What passes here may still not exist.
"""

from __future__ import annotations

import ipaddress
import re

import httpx

from sonolora.core.errors import SonoloraError

_MAX_HOST = 253  # characters of a name (RFC 1035, 2.3.4)
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


class AddressError(SonoloraError):
    """Not an http or https URL. The message does not quote the text, which may hold a password."""


def parse_web_address(text: str) -> httpx.URL:
    """Parse an absolute http or https URL. Raises `AddressError`, which says which part is wrong."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise AddressError("it is not a valid URL") from None
    if url.scheme not in ("http", "https"):
        raise AddressError("it does not begin with http:// or https://")
    try:
        host = url.host  # decodes an internationalised name
    except ValueError:
        raise AddressError("its host is not a valid internationalised name") from None
    if not host:
        raise AddressError("it has no host")
    if url.port is not None and not 0 < url.port <= 65535:
        raise AddressError(f"its port is {url.port}, not 1 to 65535")
    if not _is_host(url.raw_host.decode("ascii")):
        raise AddressError("its host is not a valid name or IP address")
    return url


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    name = host.removesuffix(".")  # of a fully qualified name
    return len(name) <= _MAX_HOST and all(map(_LABEL.fullmatch, name.split(".")))
