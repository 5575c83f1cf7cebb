"""HTTP to hosts of the public internet only: what a URL given by a stranger may reach.

In: requests of an httpx client whose transport is `PublicTransport` or `AsyncPublicTransport`. Out: their answers,
or `PrivateAddressError` before a byte is sent. The check sits where a connection is opened: the name is resolved
once, every address it has is looked at, and the connection goes to one of exactly these. So neither a second,
different DNS answer nor a redirect leads past it, and every spelling of an address (`127.1`, `0x7f000001`,
`2130706433`) is judged by what the system makes of it. TLS still verifies the name, not the address.

Environment variables for proxies do not count with these transports: a proxy would resolve the name by itself.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable, Iterator, Sequence

import anyio
import httpcore
import httpx
from httpcore import SOCKET_OPTION

from sonolora.core.errors import SonoloraError

# The registries of special-purpose addresses (IANA, RFC 6890), and what tunnels into IPv4.
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of a carrier
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # looks public, but is the host of a virtual machine on Azure
        "169.254.0.0/16",  # link-local, and the metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # no other IPv6 addresses belong to hosts of the internet
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # where networks without IPv4 see it; the last 32 bits are the address


class PrivateAddressError(SonoloraError):
    """A host that is not on the public internet. The message names the host alone: addresses tell of the network."""

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(f"the host '{host}' is not on the public internet, and private addresses are not allowed here")


def is_public(address: str) -> bool:
    """Whether the IPv4 or IPv6 `address` is one of the public internet. ValueError if it is no address."""
    ip = ipaddress.ip_address(address)
    if ip in NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return (ip.version == 4 or ip in GLOBAL_UNICAST) and not any(ip in network for network in NOT_PUBLIC)


def check_public(host: str, addresses: Iterable[str]) -> None:
    """Raise PrivateAddressError unless all `addresses` of `host` are public: a mixed answer is a trick or an error."""
    if not all(map(is_public, addresses)):
        raise PrivateAddressError(host)


class PublicTransport(httpx.HTTPTransport):
    """`httpx.Client(transport=PublicTransport())` reaches public hosts only, at redirects too."""

    def __init__(self) -> None:
        # Not super().__init__: it would make a pool that connects to anything. Should a later httpx keep its pool
        # elsewhere, no request gets through at all.
        self._pool = httpcore.ConnectionPool(ssl_context=httpx.create_ssl_context(), network_backend=_PublicBackend())


class AsyncPublicTransport(httpx.AsyncHTTPTransport):
    """The same for `httpx.AsyncClient`."""

    def __init__(self) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(), network_backend=_AsyncPublicBackend()
        )


class _PublicBackend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        for address, seconds in _tries(host, [str(answer[4][0]) for answer in answers], timeout):
            try:
                return super().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _AsyncPublicBackend(httpcore.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        try:
            answers = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        for address, seconds in _tries(host, [answer[4][0] for answer in answers], timeout):
            try:
                return await super().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _tries(host: str, addresses: Sequence[str], timeout: float | None) -> Iterator[tuple[str, float | None]]:
    """The checked addresses in the order to try, each with the seconds it may take.

    What is left of `timeout` is shared out evenly, so that one dead address does not use up all of it.
    """
    check_public(host, addresses)
    start = time.monotonic()
    for index, address in enumerate(addresses):
        if timeout is None:
            yield address, None
        else:
            left = start + timeout - time.monotonic()
            yield address, max(left / (len(addresses) - index), 0.001)
