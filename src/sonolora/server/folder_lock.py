"""One server per folder: two would both run what is in its queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sonolora.core.errors import SonoloraError

_LOCK = "server.lock"


@contextmanager
def single_instance(folder: Path) -> Iterator[None]:
    """Be the only server in the folder. Raises `SonoloraError` when there is another."""
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SonoloraError(f"another server is running in {folder}: stop it, or choose another folder") from None
    except OSError as error:
        raise SonoloraError(f"{folder / _LOCK} cannot be opened: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_served(folder: Path) -> bool:
    """Whether a server is running in the folder now."""
    path = folder / _LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True
