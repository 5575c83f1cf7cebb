"""An HTTP connection with the time and size limits that uvicorn lacks: no client can hold one without making progress.

In: bytes from a client. Out: uvicorn's own handling; but the connection is closed on a client whose headers come too
slowly or are too long, that keeps sending a body which nobody reads, or that does not take its response. How long a
body may take that is read is up to its reader.

This extends uvicorn's `HttpToolsProtocol`, which is not a documented interface: its callbacks of asyncio and httptools,
`send_400_response`, `cycle.response_complete`, `transport` and `loop`, and `STATUS_LINE`. Therefore pyproject.toml
limits the version of uvicorn.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEADER_SECONDS = 15.0  # from connecting, or from the first byte of a request, to the end of its headers
MAX_HEADER_BYTES = 1 << 16
UNREAD_SECONDS = 30.0  # for the rest of a body after the response
STALLED_SECONDS = 120.0  # without taking any of a response


class TimedHttpProtocol(HttpToolsProtocol):
    """One connection. See the top of this file."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_header = False
    _in_body = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own type
        super().connection_made(transport)
        self._set_deadline(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self._set_stalled(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data) if self._in_header else 0
        super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self._in_body and self._deadline is None:
            self._set_deadline(HEADER_SECONDS)  # empty lines, which do not begin a request
        if self._in_header and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._reject(431, "The headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header = True
        self._header_bytes = 0  # the chunk it begins in may hold other data, too
        self._set_deadline(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        self._clear_deadline()
        self._in_header, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._clear_deadline()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:
            self._set_deadline(UNREAD_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_stalled(self.loop.call_later(STALLED_SECONDS, self.transport.abort))

    def resume_writing(self) -> None:
        self._set_stalled(None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._reject(400, msg)

    def _set_deadline(self, seconds: float) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _set_stalled(self, timer: asyncio.TimerHandle | None) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = timer

    def _reject(self, status: int, detail: str) -> None:
        """Respond to what is not a request for the app, in JSON like everything else."""
        body = json.dumps({"detail": detail}).encode("ascii")
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
