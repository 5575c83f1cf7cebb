"""The proxy for clients whose hosts cannot be configured: what they send to the published hosts comes to us.

In: connections of clients with HTTPS_PROXY set to us, which begin `CONNECT <published host>:443`. Out: their bytes,
unread, to our own TLS port and back. There the certificate of our own authority stands for those hosts
(`certificates`). Every other request is refused: this is no way to anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sonolora.server.net.urls import HOST_ALIASES

MAX_HEADER = 1 << 16  # bytes; also what is read ahead of a slower receiver, about
HEADER_SECONDS = 10.0
STALLED_SECONDS = 60.0  # without the receiver taking anything of what waits for it
CLOSING_SECONDS = 10.0  # for the client to end, too, after the server has

logger = logging.getLogger(__name__)


@asynccontextmanager
async def tunnel(host: str, port: int, to: tuple[str, int]) -> AsyncIterator[int]:
    """Answer at `host` and `port` (0: a free one, which is yielded) and lead to `to`, our TLS port.

    When the block ends, every connection does. OSError if the port cannot be had.
    """
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve(reader, writer, to))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, host, port, limit=MAX_HEADER)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: tuple[str, int]) -> None:
    """One client, from its first byte to its last. A failure of either connection ends both."""
    try:
        async with _closing(writer):
            if refusal := await _refusal(reader):
                await _send(writer, refusal)
                return
            try:
                server_reader, server_writer = await asyncio.open_connection(*to, limit=MAX_HEADER)
            except OSError as error:
                logger.error("the TLS port %s:%d cannot be reached: %s", *to, error)
                await _send(writer, _answer("502 Bad Gateway", "The server does not answer."))
                return
            async with _closing(server_writer), asyncio.TaskGroup() as ways:
                await _send(writer, b"HTTP/1.1 200 Connection established\r\n\r\n")
                sending = ways.create_task(_pipe(reader, server_writer))
                # A client that has sent all still waits for its answer; with the server's last byte all is over.
                await _pipe(server_reader, writer)
                await asyncio.wait([sending], timeout=CLOSING_SECONDS)
                sending.cancel()
    except* (OSError, EOFError):
        pass  # somebody hung up or stalled, which is theirs to know


async def _refusal(reader: asyncio.StreamReader) -> bytes:
    """Read the header. Give the answer to a client that wants anything but our tunnel, else nothing."""
    try:
        async with asyncio.timeout(HEADER_SECONDS):
            header = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        return _answer("408 Request Timeout", "The request did not come in time.")
    except asyncio.LimitOverrunError:
        return _answer("431 Request Header Fields Too Large", "The header is too long.")
    request = re.match(rb"CONNECT ([A-Za-z0-9.-]+):443 HTTP/1\.[01]\r\n", header)
    if request and request[1].decode("ascii").lower() in HOST_ALIASES:
        return b""
    return _answer("403 Forbidden", f"This proxy answers CONNECT to port 443 of {', '.join(HOST_ALIASES)} alone.")


def _answer(status: str, why: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(why) + 1}\r\nConnection: close"
    return f"{head}\r\n\r\n{why}\n".encode("ascii")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends, and that it ended."""
    while chunk := await reader.read(MAX_HEADER):
        await _send(writer, chunk)
    if not writer.is_closing():
        writer.write_eof()


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    """TimeoutError when the receiver does not take what waits for it."""
    if writer.is_closing():  # asyncio would drop the content, uvloop raise an error that is no OSError
        raise ConnectionResetError
    writer.write(content)
    async with asyncio.timeout(STALLED_SECONDS):
        await writer.drain()


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close at the end, with a while to send what is left, or at once after an error."""
    closed = asyncio.create_task(writer.wait_closed())
    try:
        yield
        writer.close()
        await asyncio.wait([closed], timeout=CLOSING_SECONDS)
    finally:
        writer.transport.abort()
        await asyncio.gather(closed, return_exceptions=True)
