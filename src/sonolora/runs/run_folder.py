"""What a folder says of the run in it, without anything heavy: so that a command can refuse at once.

In: a folder. Out: whether it holds a run, which one, and whether that is over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sonolora.core.errors import SonoloraError
from sonolora.training.metrics import read_metrics

RUN_FILE = "run.json"
LORA_FILE = "lora.safetensors"
UNPACKED = ".data-"  # begins the name of the folder for what is fetched and unpacked
_OURS: set[Path] = set()  # folders that this process is at work in
_CAN_LOCK = find_spec("fcntl") is not None  # Windows cannot lock a folder


def refuse_taken(folder: Path) -> None:
    """Raise `SonoloraError` when there is a run in the folder."""
    if (folder / RUN_FILE).exists():
        raise SonoloraError(
            f"{folder} already holds a run. Continue it with: sonolora train --resume {folder}, or give another --out"
        )


@contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep the runs of other processes out of a folder, which must be there; this process may come in again.

    Raises `SonoloraError` when another is at work there; with `wait`, waits until it is not.
    """
    place = folder.resolve()
    if place in _OURS or not _CAN_LOCK:
        yield
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        _lock(descriptor, folder, wait)
        _OURS.add(place)
        yield
    finally:
        _OURS.discard(place)
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, wait: bool) -> None:
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise SonoloraError(f"another process is at work in {folder}: wait for it, or stop it") from None


def remove_unpacked(folder: Path) -> None:
    """Remove the data that a run which was killed while preparing has left; what cannot be removed stays."""
    for left in folder.glob(f"{UNPACKED}*"):
        shutil.rmtree(left, ignore_errors=True)


def read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says. Raises `SonoloraError` when there is none."""
    try:
        data: dict[str, Any] = json.loads((folder / RUN_FILE).read_bytes())
    except FileNotFoundError as error:
        raise SonoloraError(
            f"{folder} holds no run that can be continued (there is no {RUN_FILE}): it stopped before training "
            "began, or is another folder. Start it with: sonolora train MODE DATA --out DIR"
        ) from error
    except ValueError as error:
        raise SonoloraError(f"{folder / RUN_FILE} is damaged: {error}. The run in this folder cannot go on") from error
    return data


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do: trained, measured at the last step, and heard. Raises as `read_run` does."""
    request = read_run(folder)["request"]
    try:
        grids = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "grid_loss" in line]
    except (FileNotFoundError, ValueError):  # nothing measured yet, or a line that the power cut in two
        return False
    outputs = [LORA_FILE, *(["preview.wav"] if request["validation"] else [])]
    return request["number_of_steps"] in grids and all((folder / name).exists() for name in outputs)
