"""Files that are either complete or absent: write beside the target, sync, then rename over it.

In: a path and its content. Out: the complete file, or `OutputError` and the old file unchanged.

A half-written file is hidden, lies beside its target and has `.part` before its suffix: `.<id>.part.wav`.
`atomic_write` removes its own; a `PartialFile` outlives its process, so that the work can resume.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonolora.core.errors import SonoloraError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "its folder does not exist",
}


class OutputError(SonoloraError):
    """A file that could not be written, with the reason in words."""

    def __init__(self, path: Path, error: OSError | str) -> None:
        self.path = path
        if isinstance(error, OSError):
            error = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        self.reason = error
        kept = " The previous file is unchanged." if path.is_file() else ""
        super().__init__(f"{path} could not be written: {self.reason}.{kept}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix; it replaces `path` when the block succeeds.

    The block creates the file, which therefore has the permissions of any new file. If the block fails, the
    temporary file is removed and an existing `path` stays. Any OSError inside the block, which should do nothing
    but write, becomes an `OutputError`.
    """
    temporary = _part_path(path, uuid.uuid4().hex[:12])  # short enough to fit wherever `path` fits
    try:
        yield temporary
        with temporary.open("rb+") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


class PartialFile:
    """The half-written `path` that a later process can complete.

    Its journal is a text file beside it. The first line identifies what the content is part of (an ETag, a hash), so
    that nothing else is ever appended; the lines after it are notes on what has been written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = _part_path(path, path.stem)
        self._journal = self.part.with_name(f"{self.part.name}.journal")

    @property
    def size(self) -> int:
        """Bytes on disk so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def resume(self) -> tuple[str, list[str]]:
        """Identity and notes; ("", []) where there is nothing to resume."""
        if not (self.part.exists() and self._journal.exists()):
            return "", []
        identity, *notes = self._journal.read_text("utf-8", "replace").splitlines() or [""]
        return identity, notes

    def begin(self, identity: str) -> None:
        """Start an empty file of that identity. Without an identity it cannot be resumed."""
        self.discard()
        if identity:
            self._journal.write_text(f"{identity}\n", "utf-8")
        self.part.touch()

    def note(self, text: str) -> None:
        """Add a line to the journal; the caller has synced what it is about."""
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{text}\n")

    def finish(self) -> Path:
        """Put the file in place, complete."""
        self.part.replace(self.path)
        self._journal.unlink(missing_ok=True)  # not before the rename: a kill in between would lose the content
        return self.path

    def discard(self) -> None:
        """Remove the half-written file and its journal."""
        self._journal.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


def remove_half_written(folder: Path) -> None:
    """Remove the half-written files that a killed process has left in `folder` and below."""
    for left in folder.rglob(".*.part*"):
        left.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Any OSError inside the block, which writes into `folder` and is not atomic, becomes an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(folder, error) from error


def require_free(folder: Path, size: int) -> None:
    """Raise `OutputError` when `size` bytes do not fit on the disk of a folder."""
    if (free := shutil.disk_usage(folder).free) < size:
        raise OutputError(folder, f"{size / 1e9:,.2f} GB are needed, and the disk has {free / 1e9:,.2f} GB free")


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents. Raises `OutputError`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically. ValueError for NaN and infinity, which JSON cannot represent."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        # A file name that is not valid Unicode holds lone surrogates; \udc80 is also how JSON spells them.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def _part_path(path: Path, name: str) -> Path:
    # Hidden, so that no listing of a dataset includes it; with the suffix, which tells libraries what to write.
    return path.with_name(f".{name}.part{path.suffix}")


def sync_folder(folder: Path) -> None:
    """Make names in a folder outlast a power cut, where the system can: Windows and some network disks cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
