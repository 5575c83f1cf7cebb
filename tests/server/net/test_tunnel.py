"""The tunnel over real sockets, on both event loops that the server may run on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import random
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sonolora.server.net import tunnel as tunnel_module
from sonolora.server.net.certificates import ensure_certificate
from sonolora.server.net.tunnel import tunnel
from sonolora.server.net.urls import HOST_ALIASES

CONNECT = b"CONNECT queue.fal.run:443 HTTP/1.1\r\nHost: queue.fal.run:443\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = None
    if request.param == "uvloop":
        if sys.platform == "win32":
            pytest.skip("there is no uvloop on Windows")
        factory = pytest.importorskip("uvloop").new_event_loop

    def run(test: Coroutine[Any, Any, None]) -> None:
        unhandled: list[dict[str, Any]] = []
        gc.freeze()  # what is there before need not be looked through each time
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            runner.run(asyncio.wait_for(test, 30))
            gc.collect()  # tasks whose exceptions nobody saw tell at their end
        gc.unfreeze()
        assert not unhandled

    return run


@asynccontextmanager
async def upstream(handler: Handler, **options: Any) -> AsyncIterator[tuple[str, int]]:
    """What stands where our TLS port would; with `ssl` in the options it is one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything back, at the very end."""
    writer.write(await reader.read())
    await writer.drain()


async def exchange(port: int, sent: bytes, *, end: bool = True) -> bytes:
    """Send, close our half, and read all that comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    if end:
        writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def break_off(writer: asyncio.StreamWriter) -> None:
    """With a reset, not the end of what is sent."""
    link: socket.socket = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def connected(port: int, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A tunnel that is open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    writer.write(CONNECT)
    assert await reader.readexactly(len(ESTABLISHED)) == ESTABLISHED
    return reader, writer


def test_httpx_reaches_our_tls_port_under_each_published_name(run: Run, tmp_path: Path) -> None:
    certificate, key, ca = ensure_certificate(tmp_path, [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = head.split(b"\r\n")[1] + b" " + hashlib.sha256(await reader.readexactly(length)).hexdigest().encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    async def test() -> None:
        content = random.Random(0).randbytes(3_000_000)
        async with upstream(answer, ssl=context, limit=1 << 20) as to, tunnel("127.0.0.1", 0, to) as port:
            trust = ssl.create_default_context(cafile=str(ca))
            async with httpx.AsyncClient(proxy=f"http://127.0.0.1:{port}", verify=trust) as client:
                for host in HOST_ALIASES:
                    answered = await client.post(f"https://{host}/a", content=content)
                    assert answered.text == f"Host: {host} {hashlib.sha256(content).hexdigest()}"
                for url in ("https://example.com/", "https://fal.run:8443/"):
                    with pytest.raises(httpx.ProxyError, match="403"):
                        await client.get(url)

    run(test())


@pytest.mark.parametrize(
    "header",
    [
        b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT queue.fal.run:80 HTTP/1.1\r\n\r\n",
        b"CONNECT queue.fal.run HTTP/1.1\r\n\r\n",
        b"CONNECT queue.fal.run.evil.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT evilfal.run:443 HTTP/1.1\r\n\r\n",
        b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n",
        b"CONNECT x@queue.fal.run:443 HTTP/1.1\r\n\r\n",
        b"connect queue.fal.run:443 HTTP/1.1\r\n\r\n",
        b"GET http://queue.fal.run/ HTTP/1.1\r\nHost: queue.fal.run\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: CONNECT queue.fal.run:443 HTTP/1.1\r\n\r\n",
    ],
)
def test_anything_else_is_refused(run: Run, header: bytes) -> None:
    touched: list[int] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        touched.append(1)

    async def test() -> None:
        async with upstream(note) as to, tunnel("127.0.0.1", 0, to) as port:
            answer = await exchange(port, header, end=False)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert b"Content-Length: %d\r\n" % len(body) in head and b"queue.fal.run" in body

    run(test())
    assert not touched


@pytest.mark.parametrize("header", [CONNECT, CONNECT.replace(b"1.1\r\n", b"1.0\r\n"), CONNECT.replace(b"q", b"Q")])
def test_a_half_closed_client_still_gets_its_answer(run: Run, header: bytes) -> None:
    """Also when its first bytes come in the same packet as the header."""

    async def test() -> None:
        async with upstream(echo) as to, tunnel("127.0.0.1", 0, to) as port:
            assert await exchange(port, header + b"early and late") == ESTABLISHED + b"early and late"

    run(test())


def test_megabytes_arrive_whole_both_ways(run: Run) -> None:
    content = random.Random(1).randbytes(20_000_000)

    async def test() -> None:
        async with upstream(echo, limit=1 << 26) as to, tunnel("127.0.0.1", 0, to) as port:
            answer = await exchange(port, CONNECT + content)
            assert hashlib.sha256(answer).digest() == hashlib.sha256(ESTABLISHED + content).digest()

    run(test())


def test_many_at_once_do_not_mix(run: Run) -> None:
    async def test() -> None:
        async with upstream(echo) as to, tunnel("127.0.0.1", 0, to) as port:
            contents = [f"client {number} ".encode() * 2000 for number in range(100)]
            answers = await asyncio.gather(*(exchange(port, CONNECT + content) for content in contents))
            assert answers == [ESTABLISHED + content for content in contents]

    run(test())


def test_a_header_that_does_not_end_is_cut_short(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "HEADER_SECONDS", 0.3)

    async def test() -> None:
        async with upstream(echo) as to, tunnel("127.0.0.1", 0, to) as port:
            assert (await exchange(port, CONNECT[:-2], end=False)).startswith(b"HTTP/1.1 408 ")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = asyncio.create_task(reader.read())
            while not answer.done():  # a slow client, a byte at a time
                if not writer.is_closing():
                    writer.write(b"X")
                await asyncio.sleep(0.02)
            assert isinstance(answer.exception(), ConnectionError | None)
            writer.close()
            # The refusal may be lost when we still send while it hangs up; that it hangs up is what counts.
            with contextlib.suppress(OSError):
                answer = await exchange(port, CONNECT[:-2] + b"X: " + b"x" * (1 << 20))
                assert answer[:13] in (b"HTTP/1.1 431 ", b"")

    run(test())


@pytest.mark.parametrize("sent", [b"", b"CONNECT queue"])
def test_a_client_that_hangs_up_early_leaves_nothing(run: Run, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with upstream(echo) as to, tunnel("127.0.0.1", 0, to) as port:
            assert await exchange(port, sent) == b""
            assert len(asyncio.all_tasks()) <= 2  # this one, and that of wait_for

    run(test())
    assert not caplog.records


def test_when_either_end_breaks_off_so_does_the_other(run: Run) -> None:
    ended = asyncio.Event()

    async def wait_for_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        break_off(writer)

    async def test() -> None:
        async with upstream(wait_for_end) as to, tunnel("127.0.0.1", 0, to) as port:
            _, writer = await connected(port)
            writer.write(b"x")
            break_off(writer)
            await ended.wait()
        async with upstream(reset) as to, tunnel("127.0.0.1", 0, to) as port:
            reader, writer = await connected(port)
            writer.write(b"x")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(test())


def test_clients_that_break_off_at_any_moment_harm_nobody(run: Run) -> None:
    chance = random.Random(2)

    async def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk * 3)
            await writer.drain()

    async def try_it(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        content = CONNECT + bytes(100_000)
        writer.write(content[: chance.randrange(len(CONNECT) * 2) or len(content)])
        await asyncio.sleep(chance.random() * 0.02)
        break_off(writer)

    async def test() -> None:
        async with upstream(answer_at_once) as to, tunnel("127.0.0.1", 0, to) as port:
            for _ in range(5):
                await asyncio.gather(*(try_it(port) for _ in range(40)))
            reader, writer = await connected(port)
            writer.write(b"x")
            assert await reader.readexactly(3) == b"xxx"
            writer.close()

    run(test())


def test_a_client_that_breaks_off_before_the_tunnel_stands_harms_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = asyncio.open_connection
    connecting, broken_off = asyncio.Event(), asyncio.Event()

    async def connect_later(*args: Any, **kwargs: Any) -> Any:
        connecting.set()
        await broken_off.wait()
        return await connect(*args, **kwargs)

    async def test() -> None:
        async with upstream(echo) as to, tunnel("127.0.0.1", 0, to) as port:
            _, writer = await connect("127.0.0.1", port)
            writer.write(CONNECT)
            await connecting.wait()
            break_off(writer)
            broken_off.set()
            while len(asyncio.all_tasks()) > 2:  # this one, and that of wait_for
                await asyncio.sleep(0.001)

    monkeypatch.setattr(asyncio, "open_connection", connect_later)
    run(test())


def test_a_client_that_takes_nothing_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "STALLED_SECONDS", 0.2)
    gave_up = asyncio.Event()

    async def send_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        try:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
        finally:
            gave_up.set()

    async def test() -> None:
        async with upstream(send_for_ever) as to, tunnel("127.0.0.1", 0, to) as port:
            _, writer = await connected(port, limit=1)
            await gave_up.wait()
            writer.transport.abort()

    run(test())


def test_a_client_that_never_ends_is_given_up_after_the_server_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "CLOSING_SECONDS", 0.2)

    async def say_and_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        await reader.read()

    async def test() -> None:
        async with upstream(say_and_listen) as to, tunnel("127.0.0.1", 0, to) as port:
            reader, writer = await connected(port)
            assert await reader.read() == b"bye"  # to the end, which is passed on
            while not writer.is_closing():
                writer.write(b"more")
                await asyncio.sleep(0.02)

    run(test())


def test_a_silent_tunnel_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocking call may be silent for as long as the training takes."""
    for name in ("HEADER_SECONDS", "STALLED_SECONDS", "CLOSING_SECONDS"):
        monkeypatch.setattr(tunnel_module, name, 0.1)

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        await asyncio.sleep(0.6)
        writer.write(b"done")

    async def test() -> None:
        async with upstream(think) as to, tunnel("127.0.0.1", 0, to) as port:
            reader, writer = await connected(port)
            writer.write(b"x")
            assert await reader.read() == b"done"
            writer.close()

    run(test())


def test_a_tls_port_that_is_not_there_is_502(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with tunnel("127.0.0.1", 0, ("127.0.0.1", 1)) as port:
            assert (await exchange(port, CONNECT)).startswith(b"HTTP/1.1 502 ")

    run(test())
    assert "127.0.0.1:1" in caplog.text


def test_the_end_of_the_block_ends_all(run: Run) -> None:
    async def test() -> None:
        async with upstream(echo) as to:
            async with tunnel("127.0.0.1", 0, to) as port:
                reader, writer = await connected(port)
                before = len(asyncio.all_tasks())
                idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
                while len(asyncio.all_tasks()) == before:  # until it is accepted
                    await asyncio.sleep(0.001)
            for one in (reader, idle_reader):
                with contextlib.suppress(ConnectionError):
                    assert await one.read() == b""
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            idle_writer.close()

    run(test())


def test_a_port_that_is_taken_is_an_error(run: Run) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
            async with tunnel("127.0.0.1", taken.getsockname()[1], ("127.0.0.1", 1)):
                pass

    run(test())
