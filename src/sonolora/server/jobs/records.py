"""What the job store takes and gives: requests with their results, logs, metrics and events, keys, deliveries.

Times are unix seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from sonolora.server.database.tables import requests


class State(StrEnum):
    """Where a request stands. What failed or was cancelled is done too: its result says so."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """What is asked for, but for the body, which may be large and is not needed to tell how the request fares."""

    endpoint: str  # the path below the app: "t2a" ... "ic-lora/a2a"
    mode: str
    key_id: str  # whose request it is
    priority: int = 0  # 0 normal, 1 low
    start_deadline: float | None = None  # to be started by then, if only once
    webhook: str | None = None  # the URL that the result is posted to
    lifetime: float | None = None  # seconds that the output files are kept; None: for ever
    no_retry: bool = False


@dataclass(frozen=True, kw_only=True)
class NewRequest(RequestOptions):
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the request is answered with: an HTTP status with its body and headers, and the bill."""

    status: int
    body: Any
    error: str | None = None
    error_type: str | None = None
    billable_units: int = 0
    inference_time: float | None = None  # seconds
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def standing(self) -> str:
        """How it ended, in a word or a few."""
        if self.status < 400:
            return "done"
        return "cancelled" if self.error_type == "client_cancelled" else f"failed with {self.status}"


@dataclass(frozen=True, kw_only=True)
class Request(RequestOptions):
    id: str
    state: State
    created: float
    started: float | None = None  # the last time that it left the queue; kept when it is put back
    finished: float | None = None
    attempts: int = 0  # that ended in a crash
    cancel_asked: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    result: Result | None = None

    @classmethod
    def of(cls, row: Sequence[Any] | Row[Any]) -> Request:
        """From a row of the table `requests`, all columns in their order, with or without types applied."""
        values = dict(zip(requests.c.keys(), row, strict=True))
        result = None
        if values["status"] is not None:
            result = Result(
                status=values["status"],
                body=json.loads(values["result"]),
                error=values["error"],
                error_type=values["error_type"],
                billable_units=values["billable_units"],
                inference_time=values["inference_time"],
                headers=json.loads(values["headers"]),
            )
        return cls(
            endpoint=values["endpoint"],
            mode=values["mode"],
            key_id=values["key_id"],
            priority=values["priority"],
            start_deadline=values["start_deadline"],
            webhook=values["webhook"],
            lifetime=values["lifetime"],
            no_retry=bool(values["no_retry"]),
            id=values["id"],
            state=State(values["state"]),
            created=values["created"],
            started=values["started"],
            finished=values["finished"],
            attempts=values["attempts"],
            cancel_asked=bool(values["cancel_asked"]),
            progress=json.loads(values["progress"]),
            result=result,
        )


@dataclass(frozen=True)
class LogLine:
    number: int  # grows from line to line, with gaps
    time: float
    level: str
    message: str


@dataclass(frozen=True)
class Event:
    """A turn in the life of a request: started, resumed, crashed, interrupted, finished."""

    time: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Key:
    id: str
    name: str
    created: float
    revoked: float | None = None


@dataclass(frozen=True)
class Delivery:
    """A result that is to be posted to a webhook."""

    id: int
    request_id: str
    url: str
    attempts: int  # made so far
    next_try: float | None  # None: delivered or given up
    outcome: str | None  # of the last attempt
