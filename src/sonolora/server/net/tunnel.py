"""A proxy for clients whose hosts cannot be configured: it leads requests to the published hosts here.

In: connections of clients with HTTPS_PROXY set to this server, which begin `CONNECT <published host>:443`. Out: their
bytes, unread, to our own TLS port and back. There the certificate of our own authority stands for those hosts
(`certificates`). Every other request is refused: the proxy leads nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sonolora.server.net.urls import HOST_ALIASES

MAX_HEADER = 1 << 16  # bytes; also about what is read ahead of a slower receiver
HEADER_SECONDS = 10.0
STALLED_SECONDS = 60.0  # without the receiver taking any of the data that waits for it
CLOSING_SECONDS = 10.0  # for the client to close, too, after the server has

logger = logging.getLogger(__name__)


@asynccontextmanager
async def tunnel(host: str, port: int, to: tuple[str, int]) -> AsyncIterator[int]:
    """Listen at `host` and `port` (0: a free one, which is yielded) and connect clients to `to`, our TLS port.

    All connections are closed at the end of the block. OSError if the port cannot be used.
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
    """One client. A failure of either connection ends both."""
    try:
        async with _closing(writer):
            if refusal := await _refusal(reader):
                await _send(writer, refusal)
                return
            try:
                server_reader, server_writer = await asyncio.open_connection(*to, limit=MAX_HEADER)
            except OSError as error:
                logger.error("the TLS port %s:%d cannot be reached: %s", *to, error)
                await _send(writer, _response("502 Bad Gateway", "The server does not answer."))
                return
            async with _closing(server_writer), asyncio.TaskGroup() as tasks:
                await _send(writer, b"HTTP/1.1 200 Connection established\r\n\r\n")
                sending = tasks.create_task(_pipe(reader, server_writer))
                # A client that has sent everything still waits for its response; the server's last byte ends both.
                await _pipe(server_reader, writer)
                await asyncio.wait([sending], timeout=CLOSING_SECONDS)
                sending.cancel()
    except* (OSError, EOFError):
        pass  # one of the two has closed or stalled


async def _refusal(reader: asyncio.StreamReader) -> bytes:
    """Read the header. The response to a client that wants anything but the tunnel, else nothing."""
    try:
        async with asyncio.timeout(HEADER_SECONDS):
            header = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        return _response("408 Request Timeout", "The request did not arrive in time.")
    except asyncio.LimitOverrunError:
        return _response("431 Request Header Fields Too Large", "The header is too long.")
    request = re.match(rb"CONNECT ([A-Za-z0-9.-]+):443 HTTP/1\.[01]\r\n", header)
    if request and request[1].decode("ascii").lower() in HOST_ALIASES:
        return b""
    return _response("403 Forbidden", f"This proxy only answers CONNECT to port 443 of {', '.join(HOST_ALIASES)}.")


def _response(status: str, reason: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(reason) + 1}\r\nConnection: close"
    return f"{head}\r\n\r\n{reason}\n".encode("ascii")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and close the receiving side then."""
    while chunk := await reader.read(MAX_HEADER):
        await _send(writer, chunk)
    if not writer.is_closing():
        writer.write_eof()


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    """TimeoutError if the receiver does not take the data."""
    if writer.is_closing():  # asyncio would drop the content, and uvloop's error is not an OSError
        raise ConnectionResetError
    writer.write(content)
    async with asyncio.timeout(STALLED_SECONDS):
        await writer.drain()


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close at the end, with time to send the rest, or at once after an error."""
    closed = asyncio.create_task(writer.wait_closed())
    try:
        yield
        writer.close()
        await asyncio.wait([closed], timeout=CLOSING_SECONDS)
    finally:
        writer.transport.abort()
        await asyncio.gather(closed, return_exceptions=True)
