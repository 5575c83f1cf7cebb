"""The server's log on standard error: lines of text for people, or one JSON object a line for programs.

In: records of `logging`, and what a task notes of itself, such as the run that it carries out. Out: lines with time,
level, logger and message, and as JSON also with `request_id`, `run`, `attempt`, `key`, `owner`, `node` and `duration`
(seconds) where these are known. Secrets do not get into a line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonolora.server.settings import JSON

_TEXT_LINE = "%(asctime)s %(levelname)s %(message)s"
_SECRETS = (
    (re.compile(r"\b([0-9a-f]{16}):[0-9a-f]{64}\b"), r"\1:<hidden>"),  # a key of this server
    (re.compile(r"(?i)\b(signature|ticket|x-amz-[a-z-]+|token|fal_jwt_token)=[^&\s\"']+"), r"\1=<hidden>"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), r"\1:<hidden>@"),  # the password in a URL
    (re.compile(r"/files/[\w-]{20,}/"), "/files/<hidden>/"),  # whoever knows the address may read the file
)
_RUN_ROUTES = ("/queue/{app:path}/requests/", "/api/runs/", "/api/queue/")

_noted: ContextVar[dict[str, Any]] = ContextVar("noted")

logger = logging.getLogger(__name__)


def begin_notes(**fields: Any) -> None:
    """What the lines of this task, and of what it starts from here on, are about."""
    _noted.set(fields)


def note(**fields: Any) -> None:
    """Add to what was noted, also for lines of other threads of the same task."""
    if (noted := _noted.get(None)) is not None:
        noted.update(fields)


def configure(form: str) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == JSON else logging.Formatter(_TEXT_LINE))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """A record as a line of JSON. `extra={"fields": {...}}` of a logging call adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
            **_noted.get({}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def without_secrets(text: str) -> str:
    """With keys, signatures, passwords and addresses of files hidden."""
    for secret, shown in _SECRETS:
        text = secret.sub(shown, text)
    return text


class AccessLog:
    """ASGI middleware around the router: a line for each request, when it has been answered.

    It names the route and not the path, which may hold the address of a file, and no query.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answer = time.monotonic(), {"id": str(uuid.uuid4()), "status": 0}
        begin_notes(request_id=answer["id"])

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                answer["id"] = headers.setdefault("x-fal-request-id", str(answer["id"]))
                answer["status"] = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            route = getattr(scope.get("route"), "path", None)
            fields = {"request_id": answer["id"], "method": scope["method"], "route": route, "status": answer["status"]}
            if route is not None and route.startswith(_RUN_ROUTES):
                fields["run"] = scope["path_params"]["id"]
            fields["duration"] = round(time.monotonic() - began, 4)
            shown = (scope["method"], route or "no such path", answer["status"])
            logger.info("%s %s: %s", *shown, extra={"fields": fields})
