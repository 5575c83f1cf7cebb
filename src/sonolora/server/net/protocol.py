"""HTTP on a connection, with the limits that uvicorn leaves out: nobody holds one without getting on with it.

In: bytes from a client. Out: what uvicorn's own protocol does; but a client whose headers come too slowly or are too
long, that goes on with a body which nobody reads, or that does not take its answer, is cut off. How long a body may
take that is read is for those to say who read it.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEADER_SECONDS = 15.0  # from connecting, or from the first byte of a request, to the end of its headers
MAX_HEADER_BYTES = 1 << 16
UNREAD_SECONDS = 30.0  # for the rest of a body after the answer
STALLED_SECONDS = 120.0  # without taking any of an answer


class Protocol(HttpToolsProtocol):
    """One connection. See the top of this file."""

    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_header = False
    _in_body = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._expect_within(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._set_stalled(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data) if self._in_header else 0
        super().data_received(data)
        answered = self.cycle is None or self.cycle.response_complete
        if answered and not self._in_body and self._late is None:
            self._expect_within(HEADER_SECONDS)  # empty lines, which begin no request
        if self._in_header and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(431, "The headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header = True
        self._header_bytes = 0  # the piece that it begins in holds other things, too
        self._expect_within(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        self._expect_nothing()
        self._in_header, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:
            self._expect_within(UNREAD_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_stalled(self.loop.call_later(STALLED_SECONDS, self.transport.abort))

    def resume_writing(self) -> None:
        self._set_stalled(None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _expect_within(self, seconds: float) -> None:
        self._expect_nothing()
        self._late = self.loop.call_later(seconds, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _set_stalled(self, timer: asyncio.TimerHandle | None) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = timer

    def _refuse(self, status: int, detail: str) -> None:
        """Answer what is no request that the app could see, in JSON like everything else."""
        body = json.dumps({"detail": detail}).encode("ascii")
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
