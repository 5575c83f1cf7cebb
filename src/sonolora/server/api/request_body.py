"""Request bodies: read within limits of size, time and memory, and parsed without holding up other requests.

In: an HTTP request. Out: bytes, or a JSON object. `RejectedError` for a body that is too large (413) or too slow (408),
or that has to wait for others (429); `InputError` for one that is not a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from sonolora.core.errors import ErrorItem, InputError
from sonolora.server.api.responses import RejectedError, error_response

IDLE_SECONDS = 30.0  # between two chunks of a body
TOTAL_SECONDS = 900.0  # for a whole body of JSON
_FREE_BYTES = 1 << 14  # of each body that the common limit does not count, so that ordinary requests always pass
_MAX_DEPTH = 64  # levels of nesting; parsers differ in what they can take, and so do those who use the value later
_MAX_KEY_SHOWN = 80
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_T = TypeVar("_T")

# One at a time: a parser holds the interpreter lock, and several would starve the event loop.
_parser = ThreadPoolExecutor(1, "json")


class BodyMemory:
    """Limits the bytes in memory of the bodies of all requests together."""

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit, self._used = limit, 0

    @contextmanager
    def account(self) -> Iterator[Account]:
        """For one body, until it is of no use any more."""
        account = Account(self)
        try:
            yield account
        finally:
            self._used -= account.counted

    def take(self, count: int) -> None:
        if self._used + count > self._limit:
            detail = "The server holds too many large requests at the moment. Try again in a few seconds."
            raise RejectedError(error_response(429, detail, "concurrent_requests_limit", {"retry-after": "2"}))
        self._used += count


class Account:
    """The bytes of one body that count for the common limit."""

    def __init__(self, memory: BodyMemory) -> None:
        self.counted = 0
        self._memory, self._size = memory, 0

    def resize(self, size: int) -> None:
        """Raises `RejectedError` (429) when all bodies together have grown too large."""
        more = max(size - _FREE_BYTES, 0) - self.counted
        if more > 0:
            self._memory.take(more)
            self.counted += more


async def chunks(request: Request, limit: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """The body as it arrives, at most `limit` bytes. Raises `RejectedError` (413, 408)."""
    too_large = RejectedError(error_response(413, f"The body is larger than the {limit:,} bytes allowed here."))
    announced = request.headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,19}", announced) and int(announced) > limit:
        raise too_large
    size, stream = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(stream, b"")
        except TimeoutError:
            raise RejectedError(error_response(408, f"No byte arrived for {idle_seconds:g} seconds.")) from None
        if not chunk:
            return
        size += len(chunk)
        if size > limit:
            raise too_large
        yield chunk


async def json_chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The same for a body of JSON, which has a time limit as a whole."""
    deadline = time.monotonic() + TOTAL_SECONDS
    async for chunk in chunks(request, limit, IDLE_SECONDS):
        if time.monotonic() > deadline:
            raise RejectedError(error_response(408, f"The body did not end within {TOTAL_SECONDS:g} seconds."))
        yield chunk


async def read_object(request: Request, limit: int, memory: BodyMemory) -> dict[str, Any]:
    """The JSON object that is the body."""
    text = bytearray()
    with memory.account() as account:
        async for chunk in json_chunks(request, limit):
            text += chunk
            account.resize(len(text))
        return await in_parser_thread(parse_object, text)


async def in_parser_thread(function: Callable[..., _T], *arguments: object) -> _T:
    """Call a function that parses or validates what a client sent."""
    return await asyncio.get_running_loop().run_in_executor(_parser, function, *arguments)


def parse_object(text: bytes | bytearray) -> dict[str, Any]:
    """A JSON object. Raises `InputError`, also for a duplicate key: which value is meant is unknown."""
    try:
        decoded = text.decode()
        value = json.loads(decoded, object_pairs_hook=_without_duplicates)
        if _SURROGATE.search(decoded):  # half a character, which JSON can write and neither files nor headers can hold
            json.dumps(value, ensure_ascii=False).encode()
        if _is_deeper(value, _MAX_DEPTH):
            raise RecursionError
    except (ValueError, RecursionError) as error:
        raise InputError([ErrorItem(("body",), f"Invalid JSON: {_reason(error)}", "json_invalid")]) from None
    if not isinstance(value, dict):
        msg = "Input should be an object"
        raise InputError([ErrorItem(("body",), msg, "model_attributes_type", input=value)])
    return value


def _reason(error: Exception) -> str:
    match error:
        case UnicodeDecodeError(start=position):
            return f"byte {position} is not UTF-8"
        case UnicodeEncodeError():
            return "a string holds half of a surrogate pair"
        case RecursionError():
            return "nested too deeply"
        case json.JSONDecodeError() | _DuplicateKeyError():
            return str(error)
    return "a number has too many digits"  # int() has a limit


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(f"duplicate key {json.dumps(key[:_MAX_KEY_SHOWN])}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _DuplicateKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and arrays are nested deeper than that."""
    inside = [value]
    for _ in range(levels):
        containers = [item for item in inside if isinstance(item, dict | list)]
        inside = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in inside)
