"""What the public transports let through, by the registries of special-purpose addresses, and where they connect.

Names are answered by a resolver of the test. Connections to public addresses are noted and led to a server on this
machine, so that everything but the last hop is the real thing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import httpx
import pytest

from sonolora.core.public_addresses import (
    AsyncPublicTransport,
    PrivateAddressError,
    PublicTransport,
    check_public,
    is_public,
)

PUBLIC, PUBLIC_6 = "93.184.216.34", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

Get = Callable[[str], httpx.Response]


def get_sync(url: str) -> httpx.Response:
    with httpx.Client(transport=PublicTransport(), follow_redirects=True, timeout=5) as client:
        return client.get(url)


def get_async(url: str) -> httpx.Response:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=AsyncPublicTransport(), follow_redirects=True, timeout=5) as client:
            return await client.get(url)

    return asyncio.run(get())


@pytest.fixture(params=[get_sync, get_async])
def get(request: pytest.FixtureRequest) -> Get:
    return request.param  # type: ignore[no-any-return]


class Network:
    """A resolver and a wire: `names` holds the answers of each name in turn (the last one stays)."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.connected: list[str] = []
        self.dead: set[str] = set()
        self.redirect: dict[str, str] = {}
        self.port = 0

    def answer(self, name: str) -> list[str]:
        self.asked.append(name)
        answers = self.names[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def last_hop(self, address: str) -> str:
        self.connected.append(address)
        if address in self.dead:
            raise httpcore.ConnectTimeout("nobody there")
        assert is_public(address), "a connection to a private address"
        return "127.0.0.1"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    network = Network()
    resolve, connect, connect_async = (
        socket.getaddrinfo,
        httpcore.SyncBackend.connect_tcp,
        httpcore.AnyIOBackend.connect_tcp,
    )

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in network.names:
            return resolve(host, port, *args, **kwargs)
        found = [resolve(address, port, type=socket.SOCK_STREAM) for address in network.answer(name)]
        return [one for answers in found for one in answers]

    def connect_tcp(backend: Any, host: str, *_: Any, **__: Any) -> httpcore.NetworkStream:
        return connect(backend, network.last_hop(host), network.port, timeout=5)

    async def connect_tcp_async(backend: Any, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return await connect_async(backend, network.last_hop(host), network.port, timeout=5)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            to = network.redirect.get(self.path)
            body = f"{self.headers['Host']}{self.path}".encode()
            self.send_response(302 if to else 200)
            if to:
                self.send_header("Location", to)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    network.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect_tcp)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp_async)
    yield network
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_public_host_is_reached_by_its_name_at_the_address_that_was_checked(network: Network, get: Get) -> None:
    network.names["clips.example"] = [[PUBLIC]]
    answer = get("http://clips.example/a.zip")
    assert (answer.status_code, answer.text) == (200, "clips.example/a.zip")
    assert (network.asked, network.connected) == (["clips.example"], [PUBLIC])


def test_the_second_answer_of_a_rebinding_name_is_never_asked_for(network: Network, get: Get) -> None:
    network.names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert get("http://rebind.example/").status_code == 200
    assert (network.asked, network.connected) == (["rebind.example"], [PUBLIC])
    with pytest.raises(PrivateAddressError):  # a new connection asks again, and is judged by what it gets
        get("http://rebind.example/")
    assert network.connected == [PUBLIC]


@pytest.mark.parametrize("private", ["10.0.0.7", "fd00::7", "::1", "169.254.169.254"])
@pytest.mark.parametrize("first", [True, False])
def test_a_mixed_answer_is_refused(network: Network, get: Get, private: str, first: bool) -> None:
    network.names["mixed.example"] = [[private, PUBLIC, PUBLIC_6] if first else [PUBLIC, PUBLIC_6, private]]
    with pytest.raises(PrivateAddressError) as caught:
        get("http://mixed.example/?key=SECRET")
    assert network.connected == []
    assert caught.value.host == "mixed.example"
    assert private not in str(caught.value) and "SECRET" not in str(caught.value)


def test_the_next_address_is_tried_when_one_is_dead(network: Network, get: Get) -> None:
    network.names["two.example"] = [[PUBLIC_6, PUBLIC]]
    network.dead = {PUBLIC_6}
    assert get("http://two.example/").status_code == 200
    assert network.connected == [PUBLIC_6, PUBLIC]
    network.dead = {PUBLIC_6, PUBLIC}
    with pytest.raises(httpx.ConnectTimeout, match="nobody there"):
        get("http://two.example/")


@pytest.mark.parametrize(
    "literal",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0", "0.0.0.0",
        "10.1", "192.168.257", "169.254.169.254", "2852039166", "100.100.100.200", "168.63.129.16",
        "255.255.255.255", "224.0.0.1",
        "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
        "[64:ff9b::7f00:1]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[fe80::1]", "[fec0::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
        "[2001:db8::1]", "[100::1]",
    ],
)  # fmt: skip
def test_private_literals_are_refused_however_they_are_spelt(get: Get, network: Network, literal: str) -> None:
    with pytest.raises(PrivateAddressError):
        get(f"http://{literal}:{network.port}/")
    assert network.connected == []


@pytest.mark.parametrize("to", ["http://127.1/", "http://inside.example/", "//[::1]/", "https://10.0.0.1/"])
def test_a_redirect_to_a_private_address_is_refused(network: Network, get: Get, to: str) -> None:
    network.names |= {"clips.example": [[PUBLIC]], "inside.example": [["192.168.1.1"]]}
    network.redirect = {"/": "http://clips.example/on", "/on": to}
    with pytest.raises(PrivateAddressError):
        get("http://clips.example/")
    assert network.connected in ([PUBLIC], [PUBLIC, PUBLIC])  # the second where the connection was not kept


def test_without_the_transport_the_same_redirect_arrives(network: Network) -> None:
    """So the tests above fail when nothing is checked."""
    network.redirect = {"/": f"http://127.1:{network.port}/inside"}
    network.last_hop = lambda address: address  # type: ignore[method-assign]
    with httpx.Client(follow_redirects=True, trust_env=False) as client:
        assert client.get(f"http://127.0.0.1:{network.port}/").text.endswith("/inside")


def test_a_name_that_does_not_resolve_is_an_ordinary_error_of_connecting(get: Get) -> None:
    with pytest.raises(httpx.ConnectError):
        get("http://no-such-name.invalid/")


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b", "...", "xn--a"])
def test_a_host_that_cannot_exist_is_not_a_url(network: Network, get: Get, host: str) -> None:
    network.names["clips.example"] = [[PUBLIC]]
    network.redirect = {"/": f"http://{host}/"}
    for url in (f"http://{host}/", "http://clips.example/"):
        with pytest.raises((httpx.InvalidURL, ValueError)):  # at a redirect httpx decodes the name first
            get(url)


def test_proxies_of_the_environment_are_not_asked(network: Network, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{network.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{network.port}")
    with pytest.raises(PrivateAddressError):
        get("http://10.0.0.1/")


# The registries of special-purpose addresses (IANA, after RFC 6890), and multicast: no host of the internet is there.
# Those that the registries call globally reachable are for protocols, not for hosts that serve files.
SPECIAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/31", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
    "240.0.0.0/4", "255.255.255.255/32",
    "::/128", "::1/128", "::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23",
    "2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48",
    "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/3", "5f00::/16",
    "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]  # fmt: skip
ORDINARY = [
    "1.0.0.0/9", "9.255.255.0/24", "11.0.0.0/24", "100.63.255.0/24", "100.128.0.0/24", "168.63.129.17/32",
    "172.15.255.0/24", "172.32.0.0/24", "192.0.1.0/24", "192.88.98.0/24", "192.167.0.0/16", "198.17.0.0/16",
    "198.20.0.0/16", "223.255.255.0/24", "2001:200::/23", "2003::/16", "2400::/12", "2606:2800::/32", "2a00::/12",
    "3ffe::/16", "64:ff9b::808:808/128",
]  # fmt: skip


@pytest.mark.parametrize(("networks", "public"), [(SPECIAL, False), (ORDINARY, True)], ids=["special", "ordinary"])
def test_what_is_public_agrees_with_the_registries(networks: list[str], public: bool) -> None:
    chance = random.Random(0)
    for network in map(ipaddress.ip_network, networks):
        first, last = int(network.network_address), int(network.broadcast_address)
        for number in (first, last, *(chance.randint(first, last) for _ in range(200))):
            assert is_public(str(type(network.network_address)(number))) == public, network


def test_nat64_is_judged_by_the_address_inside() -> None:
    assert is_public("64:ff9b::8.8.8.8")
    for network in map(ipaddress.ip_network, SPECIAL[: SPECIAL.index("::/128")]):
        for address in (network.network_address, network.broadcast_address):
            assert not is_public(f"64:ff9b::{address}"), address
            assert not is_public(f"::ffff:{address}"), address


def test_check_public_wants_every_address_to_be_public() -> None:
    check_public("ok.example", [PUBLIC, PUBLIC_6])
    with pytest.raises(PrivateAddressError, match=r"mixed\.example"):
        check_public("mixed.example", [PUBLIC, "10.0.0.1"])
    with pytest.raises(ValueError, match="address"):
        check_public("odd.example", ["not an address"])
