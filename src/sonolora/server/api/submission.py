"""What a client asks for when it submits: the body, the headers and the query, checked.

In: the HTTP request. Out: a `NewRequest` for the job store. Faults of the body and of the query raise `InputError`
(422), an unreadable header or a body that is too large or too slow `RefusedError`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request

from sonolora.core.errors import ErrorItem, InputError
from sonolora.core.public_addresses import PrivateAddressError
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.server import clock
from sonolora.server.api.answers import RefusedError, refusal
from sonolora.server.api.file_lifetime import read_lifetime
from sonolora.server.jobs.records import Key, NewRequest
from sonolora.server.net.urls import ENDPOINTS, is_http_url, is_url
from sonolora.server.settings import ServerSettings
from sonolora.server.webhooks import WebhookError, check_webhook

_IDLE_SECONDS = 30.0  # between two pieces of a body
_BODY_SECONDS = 900.0  # for the whole of it
_LEAST_TIMEOUT = 0.1  # seconds
_DEEPEST = 64  # levels of a body; parsers differ in what they can take, and so do those who handle it later
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_submission(request: Request, endpoint: str, key: Key, settings: ServerSettings) -> NewRequest:
    """The request as it goes into the queue."""
    body = read_object(await read_body(request, settings.max_body_bytes))
    mode = ENDPOINTS[endpoint]
    trained = parse(MODES[mode].request, body)
    if found := list(_bad_urls(trained, ("body",))):
        raise InputError(found)
    headers = request.headers
    timeout = _start_timeout(headers)
    return NewRequest(
        endpoint=endpoint,
        mode=mode,
        body=body,
        key_id=key.id,
        priority=1 if headers.get("x-fal-queue-priority", "").strip().lower() == "low" else 0,
        start_deadline=None if timeout is None else clock.now() + timeout,
        webhook=_webhook(request.query_params.get("fal_webhook"), settings),
        lifetime=read_lifetime(headers),
        no_retry=headers.get("x-fal-no-retry", "").strip().lower() in ("1", "true", "yes"),
    )


def read_queue_limit(request: Request, settings: ServerSettings) -> int:
    """How many of the key's requests may wait: as the settings say, or fewer when the client says so."""
    said = request.query_params.get("fal_max_queue_length")
    if said is None:
        return settings.queue_limit
    if not (said.isascii() and said.isdecimal() and said.strip("0")):
        msg = "Input should be a positive integer"
        raise InputError([ErrorItem(("query", "fal_max_queue_length"), msg, input=said)])
    return min(settings.queue_limit, int(said.lstrip("0")[:20]))


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes. Raises `RefusedError` (413, 408)."""
    too_large = RefusedError(refusal(413, f"The body is larger than {limit} bytes. Upload large files first."))
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdecimal() and len(said) < 20 and int(said) > limit:
        raise too_large
    body = bytearray()
    pieces = request.stream()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while piece := await asyncio.wait_for(anext(pieces, b""), _IDLE_SECONDS):
                body += piece
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise RefusedError(refusal(408, "The body came too slowly.")) from None
    return bytes(body)


def read_object(text: bytes) -> dict[str, Any]:
    """A JSON object. Raises `InputError`, also for a name that stands twice: which one is meant is unknown."""
    try:
        value = json.loads(text, object_pairs_hook=_without_repetition)
        if _SURROGATE.search(text):  # half a character, which JSON can say and no file and no header can hold
            json.dumps(value, ensure_ascii=False).encode()
        if _is_deeper(value, _DEEPEST):
            raise RecursionError
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, an endless number; nested too deeply
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise InputError([ErrorItem(("body",), f"Invalid JSON: {reason}", "json_invalid")]) from None
    if not isinstance(value, dict):
        raise InputError(
            [ErrorItem(("body",), "Input should be a valid dictionary", "model_attributes_type", input=value)]
        )
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists are in one another more often than that."""
    inside = [value]
    for _ in range(levels):
        containers = (one for one in inside if isinstance(one, dict | list))
        inside = [child for one in containers for child in (one.values() if isinstance(one, dict) else one)]
    return any(isinstance(one, dict | list) for one in inside)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"{name!r} stands there twice")
        made[name] = value
    return made


def _bad_urls(model: BaseModel, loc: tuple[str | int, ...]) -> Iterator[ErrorItem]:
    """The fields of a request, and of what is in it, that should hold an address and do not."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if name.endswith("_url") and not is_url(value):
            yield ErrorItem((*loc, name), "value must be a valid URL", input=value)
        if isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _bad_urls(item, (*loc, name, index))


def _start_timeout(headers: Mapping[str, str]) -> float | None:
    """Seconds within which the request must have started; the newer header, the second, wins."""
    seconds = None
    for name in ("x-fal-request-timeout", "x-fal-request-start-timeout"):
        if (said := headers.get(name)) is not None:
            try:
                seconds = float(said)
            except ValueError:
                seconds = math.nan
            if not (_LEAST_TIMEOUT < seconds < math.inf):
                raise RefusedError(
                    refusal(400, f"{name} must be a number of seconds greater than {_LEAST_TIMEOUT}", "bad_request")
                )
    return seconds


def _webhook(url: str | None, settings: ServerSettings) -> str | None:
    """Refuses what could never be delivered."""
    if url is None:
        return None
    loc = ("query", "fal_webhook")
    if not is_http_url(url):
        raise InputError([ErrorItem(loc, "value must be a valid URL", input=url)])
    try:
        check_webhook(url, allow_private=settings.allow_private_webhooks)
    except (PrivateAddressError, WebhookError) as error:
        raise InputError([ErrorItem(loc, str(error), input=url)]) from error
    return url
