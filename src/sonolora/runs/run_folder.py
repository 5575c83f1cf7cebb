"""The folder that a run works in: one process at a time, and a place for data on its way.

In: a folder. Out: exclusive use of it. What a run makes is in `artifacts`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonolora.core.atomic_files import OutputError
from sonolora.core.errors import SonoloraError
from sonolora.runs.artifacts import RECORD, RunArtifacts

try:
    import fcntl
except ImportError:  # Windows, which cannot lock a folder
    fcntl = None  # type: ignore[assignment]

_SCRATCH = ".data-"  # begins the name of the folder for what is fetched and unpacked
_OURS: set[Path] = set()  # folders that this process works in


def refuse_taken(folder: Path) -> None:
    """Raise `SonoloraError` when the folder holds a run, or can hold none."""
    try:
        taken = RECORD in RunArtifacts(folder)
    except OSError as error:  # such as a name that is too long
        raise OutputError(folder, error) from error
    if taken:
        raise SonoloraError(
            f"{folder} already holds a run. Continue it with: sonolora train --resume {folder}, or give another --out"
        )


def make_run_folder(folder: Path) -> None:
    """Create it for a new run. Raises `SonoloraError` when it holds a run or cannot be written."""
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(folder, error) from error


@contextmanager
def exclusive_use(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep the runs of other processes out of a folder, which must exist; this process may enter again.

    Raises `SonoloraError` when another process is using it; with `wait`, waits until it is not.
    """
    place = folder.resolve()
    if place in _OURS or fcntl is None:
        yield
        return
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise SonoloraError(f"{folder} cannot be read: {error.strerror}") from error
    try:
        _lock(descriptor, folder, wait)
        _OURS.add(place)
        yield
    finally:
        _OURS.discard(place)
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise SonoloraError(f"another process is using {folder}: wait for it, or stop it") from None


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for data on its way, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as path:
        yield Path(path)


def remove_scratch(folder: Path) -> None:
    """Remove the data of a run that was killed while preparing; what cannot be removed stays."""
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
