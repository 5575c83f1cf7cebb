"""The records of the job store: requests with their results, log lines and events, keys, webhook deliveries.

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

INTERACTIVE, LOW = -1, 1  # priorities: of what somebody waits for, and of what lets others go first


class Kind(StrEnum):
    """What a request asks for."""

    TRAIN = "train"
    GENERATE = "generate"


class State(StrEnum):
    """A failed or cancelled request is done, too: its result says how it ended."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """A request without its body, which may be large and is not needed to report on it."""

    endpoint: str  # the path below the app: "t2a", "ic-lora/a2a", "text-to-audio/lora"
    mode: str
    key_id: str  # the key that submitted it
    priority: int = 0  # 0 is normal
    start_deadline: float | None = None  # of its first start
    webhook: str | None = None  # the URL that the result is posted to
    lifetime: float | None = None  # seconds that the output files are kept; None: forever
    no_retry: bool = False
    kind: Kind = Kind.TRAIN
    options: dict[str, Any] = field(
        default_factory=dict
    )  # beside the body: `name`, `dataset`, `settings`, `samples`...


@dataclass(frozen=True, kw_only=True)
class NewRequest(RequestOptions):
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer to a request: an HTTP status with its body and headers, and the bill."""

    status: int
    body: Any
    error: str | None = None
    error_type: str | None = None
    billable_units: int = 0
    inference_time: float | None = None  # seconds
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """In a few words: done, cancelled, or failed with its status."""
        if self.status < 400:
            return "done"
        return "cancelled" if self.error_type == "client_cancelled" else f"failed with {self.status}"


@dataclass(frozen=True, kw_only=True)
class Request(RequestOptions):
    id: str
    state: State
    created: float
    started: float | None = None  # when it last left the queue; kept when it is requeued
    finished: float | None = None
    attempts: int = 0  # that ended in a crash
    gb: float | None = None  # memory that it needs on a device, in GB; None: not counted
    starts: int = 0  # how often it has left the queue: the number of its newest attempt
    cancel_requested: bool = False
    paused: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    result: Result | None = None

    @classmethod
    def of(cls, row: Sequence[Any] | Row[Any]) -> Request:
        """From a row of the table `requests` with all columns in order, whether SQLAlchemy converted them or not."""
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
            starts=values["starts"],
            gb=values["gb"],
            cancel_requested=bool(values["cancel_requested"]),
            paused=bool(values["paused"]),
            progress=json.loads(values["progress"]),
            result=result,
            kind=Kind(values["kind"]),
            options=json.loads(values["options"]),
        )


@dataclass(frozen=True)
class LogLine:
    number: int  # increases from line to line, with gaps
    time: float
    level: str
    message: str


@dataclass(frozen=True)
class Event:
    """A change in the life of a request: started, resumed, crashed, interrupted, finished."""

    time: float
    kind: str
    data: dict[str, Any]


class Role(StrEnum):
    """What a key may do: a member's sees and changes what is its owner's, an operator's everything."""

    MEMBER = "member"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Key:
    id: str
    name: str
    created: float
    owner: str  # a person or a team, who may have several keys
    role: Role
    revoked: float | None = None


@dataclass(frozen=True)
class Delivery:
    """A result to be posted to a webhook."""

    id: int
    request_id: str
    url: str
    attempts: int  # so far
    next_try: float | None  # None: delivered or abandoned
    outcome: str | None  # of the last attempt
