"""The results of requests, as they appear on the wire.

In: how a request ended. Out: a `Result`. Addresses of files are stored as paths, to which each answer adds the host.
Only a success is billed. `seconds` is the time since the request left the queue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sonolora.planning.prices import billed_steps
from sonolora.runs.artifacts import CONFIG, DEBUG_ARCHIVE, LORA, PREVIEW, SWEEP, SWEEP_PICTURE, RunArtifacts
from sonolora.server import clock
from sonolora.server.endpoints.registry import endpoint_of
from sonolora.server.files.records import StoredFile
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.records import Request, Result

# Field of the output, artifact of the run, media type.
_OUTPUTS = (
    ("lora_file", LORA, "application/octet-stream"),
    ("config_file", CONFIG, "application/json"),
    ("audio", PREVIEW, "audio/wav"),
    ("debug_dataset", DEBUG_ARCHIVE, "application/zip"),
    ("standings", SWEEP, "application/json"),  # these two of a sweep
    ("curves", SWEEP_PICTURE, "image/png"),
)
_MEDIA_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".mp4": "video/mp4"}

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


def finished(request: Request, steps: int, folder: Path, storage: Storage, seconds: float) -> Result:
    """Of a run that is done; its files are taken into the storage. OSError when that fails."""
    artifacts = RunArtifacts(folder)
    expires = None if request.lifetime is None else clock.now() + request.lifetime
    body: dict[str, Any] = {"lora_file": None, "config_file": None, "audio": None, "video": None, "debug_dataset": None}
    for field, name, content_type in _OUTPUTS:
        if name in artifacts:
            file = storage.adopt(
                artifacts.path(name), name, content_type, request_id=request.id, key_id=request.key_id, expires=expires
            )
            body[field] = _file(file)
    return Result(status=200, body=body, billable_units=billed_steps(steps), inference_time=seconds)


def sample_name(number: int, format: str = "wav") -> str:
    """The file of a generated sample, counted from 1; its picture and film have the same stem."""
    return f"sample-{number:03d}.{format}"


def generated(request: Request, folder: Path, storage: Storage, seconds: float) -> Result:
    """Of a request that generated sounds; the files are taken into the storage. OSError when that fails."""
    expires = None if request.lifetime is None else clock.now() + request.lifetime
    options, endpoint = request.options, endpoint_of(request.endpoint)

    def stored(path: Path) -> dict[str, Any]:
        content_type = _MEDIA_TYPES[path.suffix]
        owner = {"request_id": request.id, "key_id": request.key_id}
        return _file(storage.adopt(path, path.name, content_type, **owner, expires=expires))

    samples = []
    for number, sample in enumerate(options["samples"], start=1):
        path = folder / sample_name(number, options.get("format", "wav"))
        entry = {**sample, "audio": stored(path)}
        if options.get("with_video"):
            entry["video"] = stored(path.with_suffix(".mp4"))
        samples.append(entry)
    body = {"samples": samples} if endpoint is None or endpoint.answer is None else endpoint.answer(samples)
    return Result(status=200, body=body, inference_time=seconds)


def _file(file: StoredFile) -> dict[str, Any]:
    return {
        "url": file.address,
        "content_type": file.content_type,
        "file_name": file.name,
        "file_size": file.size,
    }


def refused(detail: list[dict[str, Any]], seconds: float) -> Result:
    """Of data or addresses that cannot be used."""
    error = "; ".join(str(item["msg"]) for item in detail)
    return Result(status=422, body={"detail": detail}, error=error, inference_time=seconds)


def failed(message: str | None, seconds: float) -> Result:
    """Of a fault of the server; `message` is None for an unexpected one."""
    detail = message or "Internal Server Error"
    return Result(
        status=500,
        body={"detail": detail, "error_type": "internal_error"},
        error=detail,
        error_type="internal_error",
        inference_time=seconds,
    )


def crashed(how: str, seconds: float) -> Result:
    """Of a request whose workers died as often as it may be tried."""
    return Result(
        status=503,
        body={"detail": f"Runner disconnected: {how}", "error_type": "runner_disconnected"},
        error=f"Runner disconnected: {how}",
        error_type="runner_disconnected",
        inference_time=seconds,
    )
