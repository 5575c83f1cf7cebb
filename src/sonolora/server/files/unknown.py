"""Content that the database knows nothing of, or something else: set aside, and deleted only after weeks.

It comes of a database that was lost or put back from a copy. Deleted at once, a mistake with one file would cost every
LoRA; set aside, content returns to its place by itself when the database that knows it is back.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

KEPT_SECONDS = 30 * 86_400.0

logger = logging.getLogger(__name__)


class Unknown:
    """`folder` holds it as `content-<id>` and `parts-<id>`; an entry's time of change is when it was set aside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set_aside(self, path: Path, now: float, why: str) -> None:
        target, number = self._entry(path), 1
        while target.exists():
            number += 1
            target = target.with_name(f"{self._entry(path).name}.{number}")
        path.rename(target)
        self._touch(target, now)
        days = KEPT_SECONDS / 86_400
        logger.warning("%s %s: it is now %s, and is deleted after %.0f days", path, why, target, days)

    def put_back(self, path: Path) -> None:
        """Move what was set aside from there back, if there is such and nothing has its place."""
        entry = self._entry(path)
        if entry.exists() and not path.exists():
            entry.rename(path)
            logger.warning("%s is back in its place", path)

    def clean(self, now: float) -> int:
        """Delete what has been here for long enough; returns how many entries."""
        old = [path for path in self.folder.iterdir() if path.stat().st_mtime < now - KEPT_SECONDS]
        for path in old:
            logger.warning("%s is deleted", path)
            shutil.rmtree(path, ignore_errors=True)
        return len(old)

    def restart(self, now: float) -> None:
        """Count the days from now, after the system's clock was set."""
        for path in self.folder.iterdir():
            self._touch(path, now)

    def _entry(self, path: Path) -> Path:
        return self.folder / f"{path.parent.name}-{path.name}"

    def _touch(self, path: Path, now: float) -> None:
        with suppress(OSError):
            os.utime(path, (now, now))
