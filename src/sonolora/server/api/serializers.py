"""Requests in the format of the published clients: status and result.

In: a request of the job store. Out: the JSON of its status, the response to a request for its result. File URLs are
stored as paths; `base` is put in front of them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sonolora.server.api.responses import JsonResponse, error_headers, error_response
from sonolora.server.api.schemas import QueueStatus
from sonolora.server.endpoints.registry import app_of
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.records import LogLine, Request, State
from sonolora.server.net.urls import request_urls, with_file_urls

_STATUS = {State.QUEUED: "IN_QUEUE", State.RUNNING: "IN_PROGRESS", State.DONE: "COMPLETED"}


def status_body(
    request: Request, position: int, base: str, logs: Sequence[LogLine] | None, waiting_for: str | None = None
) -> dict[str, Any]:
    """A `QueueStatus`.

    `position`: requests ahead of a queued one; `logs`: None if they were not requested; `waiting_for`: what keeps the
    server from working, such as a full disk.
    """
    result = request.result
    status: dict[str, Any] = {
        "status": _STATUS[request.state],
        "request_id": request.id,
        **request_urls(base, app_of(request.endpoint), request.id),
        "logs": None if logs is None else [log_entry(line) for line in logs],
        "metrics": {},
    }
    if request.state == State.QUEUED:
        status["queue_position"] = position
    if request.state == State.RUNNING:
        status["progress"] = request.progress
    if request.state != State.DONE and waiting_for is not None:
        status["waiting_for"] = waiting_for
    if result is not None and result.inference_time is not None:
        status["metrics"] = {"inference_time": result.inference_time}
    if result is not None and result.status >= 400:
        status["error"] = result.error or f"Invalid status code: {result.status}"
        if result.error_type is not None:
            status["error_type"] = result.error_type
    return QueueStatus.model_validate(status).model_dump(exclude_unset=True)


def log_entry(line: LogLine) -> dict[str, str]:
    """A `RequestLog`; its time is ISO 8601 in UTC."""
    timestamp = datetime.fromtimestamp(line.time, UTC).isoformat(timespec="microseconds")
    return {"message": line.message, "level": line.level, "source": "USER", "timestamp": timestamp}


def result_response(request: Request, base: str, storage: Storage) -> JsonResponse:
    """The status, body and headers with which the request ended."""
    headers = {"x-fal-request-id": request.id}
    result = request.result
    if result is None:
        return error_response(400, "Request is still in progress", headers=headers)
    if result.status >= 400:
        headers = {**error_headers(result.status, result.error_type), **headers, **result.headers}
        return JsonResponse(result.body, result.status, headers)
    headers = {"x-fal-billable-units": str(result.billable_units), **headers, **result.headers}
    return JsonResponse(result_body(request, base, storage), result.status, headers)


def result_body(request: Request, base: str, storage: Storage) -> Any:
    """The body of the result, with whole URLs of its files, or with the files themselves where `sync_mode` asks so."""

    def data_uri(path: str) -> str:
        file = storage.find(path.split("/")[2])
        if file is None:  # it has expired
            return base + path
        return f"data:{file.content_type};base64,{base64.b64encode(storage.content(file).read_bytes()).decode()}"

    inline = request.options.get("sync_mode")
    return request.result and with_file_urls(request.result.body, data_uri if inline else lambda path: base + path)
