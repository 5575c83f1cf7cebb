"""A folder for each attempt at a run, so that a process of an older attempt can do no harm.

Where the server cannot know that a process has ended, such as one on a node that it cannot reach, the next attempt
works in a folder of its own, `<id>.attempt-<n>`, that begins with what the older one has left. The run's folder is
a symbolic link to that of the newest attempt: whatever reads it reads the newest, and what an older process still
writes goes where nothing looks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sonolora.core.atomic_files import writing
from sonolora.runs.artifacts import METRICS

_NAME = ".attempt-"


def begin_attempt(run_folder: Path, attempt: int) -> Path:
    """The folder for an attempt, to which the run's folder leads from now on. Raises `OutputError`."""
    folder = run_folder.with_name(f"{run_folder.name}{_NAME}{attempt}")
    with writing(run_folder):
        if run_folder.is_dir() and not run_folder.is_symlink():  # of a run that was first placed on this machine
            run_folder.rename(run_folder.with_name(f"{run_folder.name}{_NAME}0"))
            run_folder.symlink_to(f"{run_folder.name}{_NAME}0")
        if not folder.exists():
            unfinished = folder.with_name(f".{folder.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _carry_over(run_folder, unfinished)
            unfinished.rename(folder)
        link = folder.with_name(f".{run_folder.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(run_folder)
    return folder


def drop_older_attempts(run_folder: Path) -> None:
    """Remove all but the newest attempt; what cannot be removed stays."""
    if not run_folder.is_symlink():
        return
    newest = run_folder.resolve()
    for folder in run_folder.parent.glob(f"{run_folder.name}{_NAME}*"):
        if folder != newest:
            shutil.rmtree(folder, ignore_errors=True)


def id_of(folder: Path) -> str:
    """The id of the request that a folder beside the runs' belongs to."""
    return folder.name.partition(_NAME)[0]


def remove_run_folder(folder: Path) -> None:
    """Remove a run's folder, or that of one attempt; what cannot be removed stays."""
    folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)


def _carry_over(old: Path, new: Path) -> None:
    """Link what is there: outputs are replaced, never changed, but for the metrics, to which lines are added.

    The old process may still be at work, so files may vanish meanwhile.
    """
    for place, folders, names in os.walk(old):  # of a folder that is not there: nothing
        folders[:] = [name for name in folders if not name.startswith(".")]
        to = new / Path(place).relative_to(old)
        to.mkdir(exist_ok=True)
        for name in names:
            if name.startswith("."):
                continue
            try:
                _copy(Path(place, name), to / name)
            except FileNotFoundError:
                continue


def _copy(old: Path, new: Path) -> None:
    if old.name != METRICS:
        try:
            os.link(old, new)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            pass
        else:
            return
    shutil.copy2(old, new)
