"""A run as the REST face shows it: a request of the job store with its outputs.

In: requests, their bodies and run folders. Out: JSON. Addresses are relative to the server's root and signed: they work
without a key for a day, so that a browser can play them and a script can download them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonolora.runs.artifacts import EVALUATION, SWEEP, RunArtifacts
from sonolora.server.jobs.records import Kind, LogLine, Request, State
from sonolora.server.jobs.results import sample_name
from sonolora.server.rest.sessions import Sessions

_FIELDS_OUTPUTS = {
    "lora_file": "LoRA",
    "config_file": "configuration",
    "audio": "previews of the last step, one after the other",
    "debug_dataset": "the data as the model gets it",
    "standings": "how the LoRAs of the sweep stood",
    "curves": "their held-out losses by step",
}
REPORTS = ("best.safetensors", "report.html", "report.json", "metrics.jsonl", "evaluation.json", "evaluation.html")


def state_of(request: Request) -> str:
    """queued, running, pausing, paused, finished, cancelled or failed."""
    if request.state == State.QUEUED:
        return "paused" if request.paused else "queued"
    if request.state == State.RUNNING:
        return "cancelling" if request.cancel_requested else "pausing" if request.paused else "running"
    assert request.result is not None
    if request.result.status < 400:
        return "finished"
    return "cancelled" if request.result.error_type == "client_cancelled" else "failed"


def summary(request: Request) -> dict[str, Any]:
    """What a list shows. Times are unix seconds."""
    result, options = request.result, request.options
    return {
        "id": request.id,
        "kind": request.kind,
        "name": options.get("name") or options.get("title") or request.id[:8],
        "mode": request.mode,
        "state": state_of(request),
        "created": request.created,
        "started": request.started,
        "finished": request.finished,
        "progress": request.progress,
        "error": result.error if result else None,
        "seconds": result.inference_time if result else None,
        "attempts": request.attempts,
        "base": options.get("base"),
        "dataset": options.get("dataset"),
        "endpoint": request.endpoint,
        "key_id": request.key_id,
        "from_page": "name" in options,
        "members": len(options["sweep"]["members"]) if "sweep" in options else 1,
    }


def details(request: Request, body: Mapping[str, Any] | None, folder: Path, sessions: Sessions) -> dict[str, Any]:
    """Everything of a run but its log and metrics."""
    shown = summary(request)
    result = request.result
    outputs = []
    if result is not None and result.status < 400 and request.kind == Kind.TRAIN:
        for field, what in _FIELDS_OUTPUTS.items():
            if file := result.body.get(field):
                outputs.append({**file, "url": file["url"].lstrip("/"), "field": field, "what": what})
    shown |= {
        "fields": {} if body is None else dict(body),
        "settings": request.options.get("settings", {}),
        "outputs": outputs,
        "previews": previews(request, folder, sessions),
        "reports": [
            {"name": name, "url": sessions.sign(artifact_path(request.id, name))}
            for name in REPORTS
            if (folder / name).is_file()
        ],
        "evaluation": _json(folder / EVALUATION),
        "sweep": sweep(request, folder),
        "from_run": request.options.get("from_run"),
        "detail": result.body.get("detail") if result and result.status >= 400 else None,
    }
    if request.kind == Kind.GENERATE:
        shown["samples"] = samples(request, folder, sessions)
        shown["lora"] = request.options.get("lora_run")
    return shown


def previews(request: Request, folder: Path, sessions: Sessions) -> list[dict[str, Any]]:
    """The previews that there are so far, by step and number."""

    def address(name: str) -> str:
        return sessions.sign(artifact_path(request.id, name))

    return [
        {
            "step": one.step,
            "number": one.number,
            "prompt": one.prompt,
            "seed": one.seed,
            "kind": one.kind,
            "sound": address(one.sound),
            "spectrogram": sessions.sign(f"{artifact_path(request.id, one.sound)}/spectrogram"),
            "shape": sessions.sign(f"{artifact_path(request.id, one.sound)}/shape"),
        }
        for one in RunArtifacts(folder).previews()
    ]


def samples(request: Request, folder: Path, sessions: Sessions) -> list[dict[str, Any]]:
    """The samples of a request to generate; without addresses while they do not exist."""
    shown = []
    for number, sample in enumerate(request.options.get("samples", []), start=1):
        name = sample_name(number, request.options.get("format", "wav"))
        entry = dict(sample)
        if (folder / name).is_file():
            path = artifact_path(request.id, name)
            entry["sound"] = sessions.sign(path)
            entry["spectrogram"] = sessions.sign(f"{path}/spectrogram")
            entry["shape"] = sessions.sign(f"{path}/shape")
        shown.append(entry)
    return shown


def log_json(line: LogLine) -> dict[str, Any]:
    return {"number": line.number, "time": line.time, "level": line.level, "message": line.message}


def artifact_path(id: str, name: str) -> str:
    return f"api/runs/{id}/artifacts/{name}"


def sweep(request: Request, folder: Path) -> dict[str, Any] | None:
    """What a sweep tries, and from its first evaluation on its `standings`, as in `sweep.json`; None for a run."""
    if "sweep" not in request.options:
        return None
    return {**request.options["sweep"], "standings": _json(folder / SWEEP)}


def _json(path: Path) -> Any:
    """What a file holds, or None while there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
