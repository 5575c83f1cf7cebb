"""How requests end: the result that each end has on the wire.

In: what became of a request. Out: a `Result`. Addresses of files are stored as paths, which are made whole when they
are answered. Only a success is billed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sonolora.planning.prices import billed_steps
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.records import Request, Result

# Field of the output, file of the run, media type.
_OUTPUTS = (
    ("lora_file", "lora.safetensors", "application/octet-stream"),
    ("config_file", "config.json", "application/json"),
    ("audio", "preview.wav", "audio/wav"),
    ("debug_dataset", "debug_dataset.zip", "application/zip"),
)

CANCELLED = Result(
    status=499,
    body={"detail": "Request cancelled by the client.", "error_type": "client_cancelled"},
    error="Request cancelled by the client.",
    error_type="client_cancelled",
)
OVERDUE = Result(
    status=504,
    body={"detail": "Request timed out", "error_type": "startup_timeout"},
    error="Request timed out",
    error_type="startup_timeout",
    headers={"x-fal-request-timeout-type": "user"},
)


def finished(request: Request, steps: int, folder: Path, storage: Storage) -> Result:
    """A run that is done, with its files taken into the storage. OSError when that has no room."""
    now = time.time()
    expires = None if request.lifetime is None else now + request.lifetime
    body: dict[str, Any] = {"lora_file": None, "config_file": None, "audio": None, "video": None, "debug_dataset": None}
    for field, name, content_type in _OUTPUTS:
        if (folder / name).exists():
            file = storage.adopt(folder / name, name, content_type, request_id=request.id, expires=expires)
            body[field] = {
                "url": file.address,
                "content_type": file.content_type,
                "file_name": file.name,
                "file_size": file.size,
            }
    return Result(status=200, body=body, billable_units=billed_steps(steps), inference_time=_seconds(request, now))


def refused(request: Request, detail: list[dict[str, Any]]) -> Result:
    """Data or addresses that cannot be used."""
    error = "; ".join(str(item["msg"]) for item in detail)
    return Result(status=422, body={"detail": detail}, error=error, inference_time=_seconds(request, time.time()))


def failed(request: Request, message: str | None) -> Result:
    """A fault on our side; without a message, one that nobody foresaw."""
    detail = message or "Internal Server Error"
    return Result(
        status=500,
        body={"detail": detail, "error_type": "internal_error"},
        error=detail,
        error_type="internal_error",
        inference_time=_seconds(request, time.time()),
    )


def crashed(request: Request, how: str) -> Result:
    """Workers died of it as often as they may."""
    return Result(
        status=503,
        body={"detail": f"Runner disconnected: {how}", "error_type": "runner_disconnected"},
        error=f"Runner disconnected: {how}",
        error_type="runner_disconnected",
        inference_time=_seconds(request, time.time()),
    )


def _seconds(request: Request, now: float) -> float | None:
    """Since it left the queue."""
    return None if request.started is None else round(now - request.started, 3)
