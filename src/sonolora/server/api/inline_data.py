"""JSON bodies with data: URIs: the content of a long one goes to the storage while the body arrives.

In: the chunks of a body. Out: a JSON object in which the URLs of stored files stand for long data: URIs. So a body of
any size takes little memory and is parsed in no time; whatever else is in it has a small limit.
"""

from __future__ import annotations

import binascii
import json
import mimetypes
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

from sonolora.core.errors import ErrorItem, InputError
from sonolora.server import clock
from sonolora.server.api.request_body import Account, parse_object
from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.files.records import StoredFile
from sonolora.server.files.storage import Storage
from sonolora.server.net.urls import holds_address

MAX_TEXT_BYTES = 128 << 10  # of a body without the content of its long data: URIs
_LONG = 4 << 10  # characters of a string from which on a data: URI is stored
_REJECTED_SECONDS = 3600.0  # how long the content of a rejected request stays
KEPT_SECONDS = 365 * 86400.0  # and that of an accepted one, which may wait in the queue

# As many complete parts of JSON as there are, up to a string that is long or does not end here. Neither expression can
# fail, so neither backtracks far. Possessive quantifiers would say so, but match too much before Python 3.11.5.
_SHORT_PARTS = re.compile(rb'(?:[^"]+|"(?:[^"\\]|\\.){0,%d}")*' % _LONG, re.DOTALL)
_CHARACTERS = re.compile(rb'(?:[^"\\]+|\\u[0-9A-Fa-f]{4}|\\[^u])*', re.DOTALL)
_LONGEST_ESCAPE = 6
_INCOMPLETE_PERCENT = re.compile(rb"%[0-9A-Fa-f]?\Z")


class InlineData:
    """Reads one body. `key_id` owns the stored files, whose URLs start with `base`."""

    def __init__(self, storage: Storage, key_id: str, base: str, account: Account) -> None:
        self._storage, self._key_id, self._base, self._account = storage, key_id, base, account
        self._text = bytearray()  # of the body, with placeholders for long data: URIs
        self._buffer = bytearray()  # what has arrived since
        self._files: dict[str, StoredFile] = {}  # by placeholder
        self._faults: dict[str, str] = {}
        self._mark = secrets.token_hex(16)

    async def read(self, chunks: AsyncIterator[bytes]) -> bytes:
        """The text to parse. Raises `RejectedError`, `UploadError`."""
        self._chunks = chunks
        while True:
            self._keep(_match_end(_SHORT_PARTS, self._buffer))
            if not self._buffer:
                if not await self._more():
                    return bytes(self._text)
                continue
            end, closed = await self._look_for_end()
            if end > _LONG and self._buffer[1:6].lower() == b"data:":
                await self._store_string()
            elif end > _LONG:
                await self._keep_string()
            elif not closed:  # no valid JSON, as the parser will find
                self._keep(len(self._buffer))

    def parse(self, text: bytes) -> dict[str, Any]:
        """The JSON object. Raises `InputError`, also for data: URIs that cannot be decoded."""
        body = parse_object(text)
        if not self._files and not self._faults:
            return body
        faults: list[ErrorItem] = []
        restored: dict[str, Any] = self._restored(body, ("body",), faults)
        if faults:
            raise InputError(faults)
        return restored

    def accepted(self) -> None:
        """Keep the stored files: the request is in the queue."""
        for file in self._files.values():
            self._storage.begin(replace(file, expires=clock.now() + KEPT_SECONDS))

    async def _more(self) -> bool:
        chunk = await anext(self._chunks, b"")
        self._buffer += chunk
        self._account.resize(len(self._text) + len(self._buffer))
        return bool(chunk)

    def _keep(self, count: int) -> None:
        """Move the first bytes of the buffer to the text."""
        self._text += self._buffer[:count]
        del self._buffer[:count]
        if len(self._text) > MAX_TEXT_BYTES:
            detail = (
                f"The body has more than {MAX_TEXT_BYTES:,} bytes beside the content of its data: URIs. "
                "Upload large files and give their URLs."
            )
            raise RejectedError(error_response(413, detail))

    async def _look_for_end(self) -> tuple[int, bool]:
        """Position of the closing quote of the string at the start of the buffer, or how far it is known to be long."""
        end = 1
        while True:
            end = _match_end(_CHARACTERS, self._buffer, end)
            if self._buffer[end : end + 1] == b'"':
                return end, True
            if end > _LONG or self._is_stuck(end) or not await self._more():
                return end, False

    async def _keep_string(self) -> None:
        """A long string that is not a data: URI."""
        self._keep(1)
        while not self._buffer.startswith(b'"'):
            self._keep(_match_end(_CHARACTERS, self._buffer))
            if not self._buffer.startswith(b'"') and (self._is_stuck(0) or not await self._more()):
                self._keep(len(self._buffer))  # no valid JSON, as the parser will find
                return
        self._keep(1)

    def _is_stuck(self, position: int) -> bool:
        """Whether what stands there, and is no character, will not become one either."""
        return len(self._buffer) - position >= _LONGEST_ESCAPE

    async def _store_string(self) -> None:
        """A data: URI: store its content and put a placeholder into the text."""
        placeholder = f"data:{self._mark}:{len(self._files) + len(self._faults)}"
        del self._buffer[:1]
        pieces = self._string()
        header, _, first = (await anext(pieces)).partition(b",")
        media_type = header[5:].partition(b";")[0].decode("ascii", "replace").lower()
        name = "inline" + (mimetypes.guess_extension(media_type) or "")
        file = self._storage.new(name, media_type, key_id=self._key_id, lifetime=_REJECTED_SECONDS)
        try:
            if not header.lower().endswith(b";base64"):
                raise ValueError("the data: URI is not base64. Write it as data:<type>;base64,<content>")
            self._files[placeholder] = await self._storage.receive(file, _decoded(first, pieces))
        except ValueError as error:
            self._faults[placeholder] = str(error)
            async for _ in pieces:
                pass
        self._text += json.dumps(placeholder).encode()

    async def _string(self) -> AsyncIterator[bytes]:
        """The value of the string at the start of the buffer, whose opening quote is gone already, in pieces."""
        while True:
            end = _match_end(_CHARACTERS, self._buffer)
            piece, closed = bytes(self._buffer[:end]), self._buffer[end : end + 1] == b'"'
            del self._buffer[: end + closed]
            try:
                yield json.loads(b'"%s"' % piece).encode()
            except ValueError:
                raise _invalid("a string holds a control character or an invalid escape") from None
            if closed:
                return
            if self._is_stuck(0) or not await self._more():
                raise _invalid("a string does not end or holds an invalid escape")

    def _restored(self, value: Any, loc: tuple[str | int, ...], faults: list[ErrorItem]) -> Any:
        """With URLs in place of the placeholders."""
        match value:
            case dict():
                return {name: self._restored(item, (*loc, name), faults) for name, item in value.items()}
            case list():
                return [self._restored(item, (*loc, index), faults) for index, item in enumerate(value)]
            case str() if value in self._faults:
                faults.append(ErrorItem(loc, self._faults[value]))
            case str() if value in self._files:
                if holds_address(str(loc[-1])):
                    return self._base + self._files[value].address
                faults.append(ErrorItem(loc, f"longer than {_LONG:,} characters, as only fields with URLs may be"))
        return value


async def _decoded(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content of base64 that comes in pieces. Raises `ValueError`."""
    encoded, rest, padded = first, b"", False

    def decode(block: bytes) -> bytes:
        nonlocal padded
        if block and padded:
            raise ValueError("the data: URI holds damaged base64 (content after its end). Encode it again")
        padded = b"=" in block
        try:
            return binascii.a2b_base64(block, strict_mode=True)
        except binascii.Error as error:
            raise ValueError(f"the data: URI holds damaged base64 ({error}). Encode it again") from None

    while True:
        cut = _INCOMPLETE_PERCENT.search(encoded)
        encoded, held = (encoded[: cut.start()], encoded[cut.start() :]) if cut else (encoded, b"")
        rest += b"".join(unquote_to_bytes(encoded).split())
        whole = len(rest) // 4 * 4
        yield decode(rest[:whole])
        rest = rest[whole:]
        piece = await anext(pieces, None)
        if piece is None:
            break
        encoded = held + piece
    rest += held
    if rest:
        yield decode(rest + b"=" * (-len(rest) % 4))


def _match_end(pattern: re.Pattern[bytes], text: bytearray, start: int = 0) -> int:
    match = pattern.match(text, start)
    assert match is not None, "the pattern also matches nothing"
    return match.end()


def _invalid(reason: str) -> InputError:
    return InputError([ErrorItem(("body",), f"Invalid JSON: {reason}", "json_invalid")])
