"""One server a folder: two would both run what is in its queue. In: the folder. Out: a lock, and whether it is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonolora.core.errors import SonoloraError

_LOCK = "server.lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the server in the folder. Raises `SonoloraError` when there is one."""
    import fcntl  # not on Windows, where no server runs

    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SonoloraError(f"another server works in {folder}: stop it, or give another folder") from None
        yield


def is_served(folder: Path) -> bool:
    """Whether a server works in the folder now."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with (folder / _LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
