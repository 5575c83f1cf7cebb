"""A request as the published clients see it: its status and its result.

In: a request of the job store. Out: the JSON of a status, the answer of a result. Stored file addresses are paths;
`base` is what makes them whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sonolora.server.api.answers import Answer, failure_headers, refusal
from sonolora.server.jobs.records import LogLine, Request, State
from sonolora.server.net.urls import absolute, request_urls

_STATUS = {State.QUEUED: "IN_QUEUE", State.RUNNING: "IN_PROGRESS", State.DONE: "COMPLETED"}


def status_body(
    request: Request, position: int, base: str, logs: Sequence[LogLine] | None, waiting_for: str | None = None
) -> dict[str, Any]:
    """`position`: how many are in front of a queued one; `logs`: None when they were not asked for;
    `waiting_for`: what keeps the server from working, such as a full disk.

    What failed or was cancelled is COMPLETED as well, with an `error`. The key `logs` is always there: a client fails
    without it.
    """
    body: dict[str, Any] = {
        "status": _STATUS[request.state],
        "request_id": request.id,
        **request_urls(base, request.id),
        "logs": None if logs is None else [log_entry(line) for line in logs],
        "metrics": {},
    }
    if request.state == State.QUEUED:
        body["queue_position"] = position
    if request.state == State.RUNNING:
        body["progress"] = request.progress
    if request.state != State.DONE and waiting_for is not None:
        body["waiting_for"] = waiting_for
    if (result := request.result) is not None:
        if result.inference_time is not None:
            body["metrics"] = {"inference_time": result.inference_time}
        if result.status >= 400:
            body["error"] = result.error or f"Invalid status code: {result.status}"
            if result.error_type is not None:
                body["error_type"] = result.error_type
    return body


def log_entry(line: LogLine) -> dict[str, str]:
    """A line of the log; its time is ISO 8601 in UTC."""
    return {
        "message": line.message,
        "level": line.level,
        "source": "USER",
        "timestamp": datetime.fromtimestamp(line.time, UTC).isoformat(timespec="microseconds"),
    }


def result_answer(request: Request, base: str) -> Answer:
    """The code, body and headers that it ended with."""
    own = {"x-fal-request-id": request.id}
    result = request.result
    if result is None:
        return refusal(400, "Request is still in progress", headers=own)
    if result.status >= 400:
        return Answer(
            result.body, result.status, {**failure_headers(result.status, result.error_type), **own, **result.headers}
        )
    billed = {"x-fal-billable-units": str(result.billable_units)}
    return Answer(absolute(result.body, base), result.status, {**billed, **own, **result.headers})
