"""Writes that outlast a fault of the database and a full disk: repeated, with back-off, until they succeed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from sonolora.server.database.faults import StoreError
from sonolora.server.health import Health

FIRST_PAUSE = 0.5
MAX_PAUSE = 30.0

P = ParamSpec("P")
T = TypeVar("T")


class Retrying:
    """`await retrying(call, ...)` calls in a thread, as often as it takes; `health` says why it waits.

    A call is repeated as a whole, so it must be one that changes nothing when it fails.
    """

    def __init__(self, health: Health) -> None:
        self.health = health

    async def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        pause, key = FIRST_PAUSE, object()
        try:
            while True:
                try:
                    return await asyncio.to_thread(partial(call, *args, **kwargs))
                except StoreError as error:
                    self.health.begin(key, error.public, str(error))
                except OSError as error:
                    if not is_disk_full(error):
                        raise
                    self.health.begin(key, "the server's disk is full", str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)
        finally:
            self.health.end(key)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an OSError, or that which caused another error, means that there is no space left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
