"""Files that are either whole or not there: write beside the target, sync, then rename over it.

In: a path and what shall stand there. Out: the complete file, or `OutputError` and the old file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonolora.core.errors import SonoloraError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "it is not permitted",
    errno.EPERM: "it is not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "its folder does not exist",
}


class OutputError(SonoloraError):
    """A file that could not be written, with the reason in words."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        kept = " The file that was there before is untouched." if os.path.isfile(path) else ""  # noqa: PTH113
        super().__init__(f"{path} could not be written: {self.reason}.{kept}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix; when the block ends well, it becomes `path`.

    The block creates the file, so it gets the permission bits of any new file. If the block fails, the
    temporary file is removed and an older `path` stays. Any OSError inside the block, which should do nothing
    but write, becomes an `OutputError`.
    """
    # Short, so that it fits wherever `path` fits; hidden, so that no listing of a dataset takes it up.
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.part{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    # The file is in place now, and some network file systems cannot sync a folder.
    with contextlib.suppress(OSError):
        _sync(path.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Any OSError inside the block, which writes into `folder` and is not atomic, becomes an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(folder, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing. Raises `OutputError` when it cannot be made."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically. ValueError for NaN and infinity, which JSON cannot say."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        # A file name that is not valid Unicode holds lone surrogates; \udc80 is also how JSON spells them.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
