"""Submissions: the body, headers and query of a request to an endpoint, checked.

In: the HTTP request. Out: a `NewRequest` for the job store. Invalid bodies and queries raise `InputError` (422), an
unreadable header `RejectedError` (400).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request

from sonolora.core.errors import ErrorItem, InputError
from sonolora.core.public_addresses import PrivateAddressError
from sonolora.modes.request import parse, unknown_fields
from sonolora.server import clock
from sonolora.server.api.file_lifetime import read_lifetime
from sonolora.server.api.inline_data import InlineData
from sonolora.server.api.request_body import in_parser_thread, json_chunks
from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.endpoints.endpoint import Endpoint, Job
from sonolora.server.jobs.records import LOW, Key, NewRequest
from sonolora.server.net.urls import data_url_fault
from sonolora.server.settings import ServerSettings
from sonolora.server.webhooks import WebhookError, check_webhook

_MIN_TIMEOUT = 0.1  # seconds
_TRUE = ("1", "true", "yes")


async def read_submission(
    request: Request, endpoint: Endpoint, key: Key, settings: ServerSettings, inline: InlineData
) -> tuple[NewRequest, list[str]]:
    """Read a request for the queue; also lines for its log, about what has no effect."""
    text = await inline.read(json_chunks(request, settings.max_body_bytes))
    body, job = await in_parser_thread(_parse, inline, text, endpoint)
    headers = request.headers
    timeout = _start_timeout(headers)
    low = headers.get("x-fal-queue-priority", "").strip().lower() == "low"
    new = NewRequest(
        endpoint=endpoint.path,
        mode=job.mode,
        body=body,
        key_id=key.id,
        kind=job.kind,
        options=dict(job.options),
        priority=LOW if low else job.priority,
        start_deadline=None if timeout is None else clock.now() + timeout,
        webhook=_webhook(request.query_params.get("fal_webhook"), settings),
        lifetime=read_lifetime(headers),
        no_retry=headers.get("x-fal-no-retry", "").strip().lower() in _TRUE,
    )
    return new, [*unknown_fields(endpoint.request, body), *job.notes]


def read_queue_limit(request: Request, settings: ServerSettings) -> int:
    """How many of the key's requests may wait: the limit of the settings, or a lower one of the client."""
    value = request.query_params.get("fal_max_queue_length")
    if value is None:
        return settings.queue_limit
    if not (value.isascii() and value.isdecimal() and value.strip("0")):
        msg = "Input should be a positive integer"
        raise InputError([ErrorItem(("query", "fal_max_queue_length"), msg, input=value)])
    return min(settings.queue_limit, int(value.lstrip("0")[:20]))


def _parse(inline: InlineData, text: bytes, endpoint: Endpoint) -> tuple[dict[str, Any], Job]:
    """The body of a valid request, and what it asks of the workers."""
    body = inline.parse(text)
    request = parse(endpoint.request, body)
    if faults := list(_url_faults(request, ("body",))):
        raise InputError(faults)
    return body, endpoint.job(request)


def _url_faults(model: BaseModel, loc: tuple[str | int, ...]) -> Iterator[ErrorItem]:
    """The fields of a request and of its entries that should hold a URL and do not."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if name.endswith("_url") and (fault := data_url_fault(value)):
            yield ErrorItem((*loc, name), fault, input=value)
        if isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                if isinstance(entry, BaseModel):
                    yield from _url_faults(entry, (*loc, name, index))


def _start_timeout(headers: Mapping[str, str]) -> float | None:
    """Seconds within which the request must have started; the newer header, the second, wins."""
    seconds = None
    for name in ("x-fal-request-timeout", "x-fal-request-start-timeout"):
        if (value := headers.get(name)) is not None:
            try:
                seconds = float(value)
            except ValueError:
                seconds = math.nan
            if not (_MIN_TIMEOUT < seconds < math.inf):
                detail = f"{name} must be a number of seconds greater than {_MIN_TIMEOUT}"
                raise RejectedError(error_response(400, detail, "bad_request"))
    return seconds


def _webhook(url: str | None, settings: ServerSettings) -> str | None:
    """Reject what could never be delivered."""
    if url is not None:
        try:
            check_webhook(url, allow_private=settings.allow_private_webhooks)
        except (PrivateAddressError, WebhookError) as error:
            raise InputError([ErrorItem(("query", "fal_webhook"), str(error), input=url)]) from error
    return url
