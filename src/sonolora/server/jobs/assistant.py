"""The assistant: a process beside the workers that checks datasets and estimates runs, for people who wait for it.

    python -m sonolora.server.jobs.assistant

In: JSON lines on standard input, `{"id", "task", "mode", "body", "data", "base", "settings"}`; `data` is a folder, and
`task` is `check`, `estimate` or `memory`, which needs no data. Out: JSON lines, `{"id", "progress": {...}}` any number
of times, then `{"id", "result"}` or `{"id", "detail"}` as in a 422 response, or `{"id", "message"}`.

It never holds a network on a device: a check reads and measures files, an estimate counts, and measures on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from sonolora.core.errors import InputError, SonoloraError
from sonolora.server.jobs.hidden_paths import HiddenPaths

_PROGRESS_SECONDS = 0.2


class _Progress:
    """Sends phases and steps of one task; its messages are not needed."""

    def __init__(self, out: TextIO, id: str) -> None:
        self._out, self._id = out, id
        self._state: dict[str, Any] = {"phase": "", "step": 0, "steps": None}
        self._sent = 0.0

    def phase(self, name: str, total: int | None) -> None:
        self._state = {"phase": name, "step": 0, "steps": total}
        self._send()

    def advance(self, note: str = "", *, to: int | None = None) -> None:  # noqa: ARG002 - of the protocol
        self._state["step"] = self._state["step"] + 1 if to is None else to
        if time.monotonic() - self._sent > _PROGRESS_SECONDS:
            self._send()

    def message(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def remaining(self, seconds: float) -> None: ...

    def metrics(self, step: int, values: Mapping[str, Any]) -> None: ...

    def _send(self) -> None:
        self._sent = time.monotonic()
        _write(self._out, {"id": self._id, "progress": self._state})


def _write(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def _check(task: Mapping[str, Any], progress: _Progress) -> dict[str, Any]:
    """The report on every file; `error` is what a run would be refused with."""
    from sonolora.data.clips import load_clips
    from sonolora.data.dataset_files import discover
    from sonolora.data.report import Report
    from sonolora.ltx.codec.codec_rates import codec_rates
    from sonolora.ltx.text.text_encoder import load_tokenizer
    from sonolora.ltx.weights.base import find_base
    from sonolora.modes import find_mode
    from sonolora.modes.request import parse

    mode = find_mode(task["mode"])
    request = parse(mode.request, task["body"])
    base = find_base(task["base"])
    tokenizer = load_tokenizer(base.checkpoint, base.text_encoder)
    sample_rate, _ = codec_rates(base.checkpoint)
    files = discover(Path(task["data"]))
    report, clips, error = Report(), 0, None
    progress.phase("reading the clips", len(files.names))
    try:
        for _ in load_clips(mode, request, files, sample_rate, tokenizer, report, progress.advance):
            clips += 1
    except InputError as fault:
        error = fault.detail()
    return {**report.as_json(), "clips": clips, "error": error}


def _estimate(task: Mapping[str, Any], progress: _Progress) -> dict[str, Any]:
    from sonolora.modes import find_mode
    from sonolora.modes.request import parse
    from sonolora.planning.estimate import estimate
    from sonolora.planning.run_settings import RunSettings
    from sonolora.planning.sweep_plan import SweepPlan

    mode, body = find_mode(task["mode"]), {**task["body"], "training_data_url": task["data"]}
    plan = SweepPlan.of(task["sweep"]) if "sweep" in task else None
    request = parse(mode.request, body) if plan is None else plan.request(mode, body)
    settings = RunSettings(base=task["base"], **task["settings"])
    found = estimate(mode, request, settings, Path(task["data"]), progress, plan=plan)
    return {**found.as_json(), "peak": found.needs.peak}


def _memory(task: Mapping[str, Any], _: _Progress) -> dict[str, Any]:
    """What a run needs on a GPU, without a look at its data. `gb`: 10^9 bytes."""
    import torch

    from sonolora.ltx.weights.base import find_base
    from sonolora.modes import find_mode
    from sonolora.modes.request import parse
    from sonolora.planning.base_shape import PUBLISHED_NAME, BaseShape
    from sonolora.planning.needs import count_needs
    from sonolora.planning.run_settings import RunSettings
    from sonolora.planning.sweep_plan import SweepPlan

    mode = find_mode(task["mode"])
    body = {"training_data_url": "data:,", **task["body"]}
    plan = SweepPlan.of(task["sweep"]) if "sweep" in task else None
    request = parse(mode.request, body) if plan is None else plan.request(mode, body)
    members = 1 if plan is None else len(plan.members)
    settings = RunSettings(base=task["base"], **task["settings"])
    try:
        shape = BaseShape.of(find_base(task["base"]))
    except SonoloraError:
        if task["base"] != PUBLISHED_NAME:  # which only the nodes may have
            raise
        shape = BaseShape.published()
    return {"gb": count_needs(shape, mode, request, settings, torch.device("cuda"), members=members).peak / 1e9}


_TASKS = {"check": _check, "estimate": _estimate, "memory": _memory}


def main() -> None:
    """Carry out tasks until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    hidden = HiddenPaths({})
    for line in sys.stdin:
        task = json.loads(line)
        id = task["id"]
        hidden = HiddenPaths({Path(task["data"]): "the dataset"})
        try:
            _write(out, {"id": id, "result": hidden.hide(_TASKS[task["task"]](task, _Progress(out, id)))})
        except InputError as error:
            _write(out, {"id": id, "detail": hidden.hide(error.detail())})
        except SonoloraError as error:
            _write(out, {"id": id, "message": hidden.hide(str(error))})
        except Exception:
            traceback.print_exc()
            _write(out, {"id": id, "message": "the server could not do this; its log says why"})


if __name__ == "__main__":
    main()
