"""HTTP to hosts of the public internet only: for URLs that strangers give.

In: requests of an httpx client whose transport is `PublicTransport` or `AsyncPublicTransport`. Out: their responses,
or `PrivateAddressError` before a byte is sent. The transport resolves the name once, checks every address, and sends
the request to one of exactly these: neither a second, different DNS answer nor a redirect gets around the check, and
every spelling of an address (`127.1`, `0x7f000001`, `2130706433`) is judged by what the system resolves it to. TLS
verifies the name, not the address.

Proxies set in the environment do not apply to these transports: a proxy would resolve the name by itself.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable, Iterator, Sequence

import anyio
import httpx

from sonolora.core.errors import SonoloraError
from sonolora.core.web_address import AddressError, parse_web_address

# Beyond `is_global`: what looks public and is not, what tunnels into IPv4, and protocol assignments, of which
# `is_global` excepts a few and older Pythons know less.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # the host of a virtual machine on Azure
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments, with Teredo
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # no other IPv6 addresses belong to hosts of the internet
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 as seen from networks without it, in the last 32 bits


class PrivateAddressError(SonoloraError):
    """A host that is not on the public internet. The message names the host only: addresses reveal the network."""

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(f"the host '{host}' is not on the public internet, and private addresses are not allowed here")


def is_public(address: str) -> bool:
    """Whether the IPv4 or IPv6 `address` is on the public internet. ValueError if it is not an address."""
    ip = ipaddress.ip_address(address)
    if ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return (
        (ip.version == 4 or ip in _GLOBAL_UNICAST)
        and ip.is_global
        and not ip.is_multicast
        and not any(ip in network for network in _NOT_PUBLIC)
    )


def check_public(host: str, addresses: Iterable[str]) -> None:
    """Raise PrivateAddressError unless all `addresses` of `host` are public: a mixed answer is suspect."""
    if not all(map(is_public, addresses)):
        raise PrivateAddressError(host)


class PublicTransport(httpx.HTTPTransport):
    """`httpx.Client(transport=PublicTransport())` reaches public hosts only, at redirects too."""

    def __init__(self) -> None:
        super().__init__(limits=_NO_REUSE)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host, port = _host_and_port(request)
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host}: {error}", request=request) from error
        failure: Exception = httpx.ConnectError(f"{host} has no address", request=request)
        for attempt in _attempts(request, [str(answer[4][0]) for answer in answers]):
            try:
                return super().handle_request(attempt)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure


class AsyncPublicTransport(httpx.AsyncHTTPTransport):
    """The same for `httpx.AsyncClient`."""

    def __init__(self) -> None:
        super().__init__(limits=_NO_REUSE)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, port = _host_and_port(request)
        try:
            answers = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host}: {error}", request=request) from error
        failure: Exception = httpx.ConnectError(f"{host} has no address", request=request)
        for attempt in _attempts(request, [str(answer[4][0]) for answer in answers]):
            try:
                return await super().handle_async_request(attempt)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure


# A pool tells connections apart by address alone: one that TLS has verified for a name must not serve another name.
_NO_REUSE = httpx.Limits(max_keepalive_connections=0)


def _host_and_port(request: httpx.Request) -> tuple[str, int]:
    try:
        url = parse_web_address(str(request.url))
    except AddressError as error:
        raise httpx.InvalidURL(f"{error}") from None
    return url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _attempts(request: httpx.Request, addresses: Sequence[str]) -> Iterator[httpx.Request]:
    """The request to each of the checked addresses in turn, with the seconds that connecting may take.

    What is left of the time limit is shared evenly, so that one dead address does not use up all of it.
    """
    host = request.url.host
    check_public(host, addresses)
    timeouts = request.extensions.get("timeout", {})
    limit, start = timeouts.get("connect"), time.monotonic()
    for index, address in enumerate(addresses):
        extensions = {**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")}
        if limit is not None:
            left = (start + limit - time.monotonic()) / (len(addresses) - index)
            extensions["timeout"] = {**timeouts, "connect": max(left, 0.001)}
        # The headers already name the host.
        url = request.url.copy_with(host=address)
        yield httpx.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)
