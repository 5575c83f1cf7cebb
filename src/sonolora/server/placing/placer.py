"""Where runs are placed: the four verbs that the server knows of whatever carries out its requests.

In: a run and the number of its attempt. Out: the events of its process, which is `sonolora.server.jobs.worker`
wherever it runs. The server owns the queue: a placer holds no request that the server has not given it, and keeps
nothing when it ends.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from sonolora.core.errors import SonoloraError

STOP_SECONDS = 20.0  # for a run to save its state; then its process is killed
ENDINGS = ("done", "stopped", "input_error", "failed")  # the events that say how a run ended


class WorkerDiedError(SonoloraError):
    """The process of a run ended by itself, or its node did; the message says how."""


@dataclass(frozen=True)
class Slot:
    """A device that carries out one run at a time."""

    name: str
    free: bool
    ready: bool = True  # False while its worker is still starting
    gb: float = math.inf  # memory of the device in GB (10^9 bytes); inf: the run checks it by itself
    drained: bool = False  # is given no more runs


@dataclass(frozen=True)
class Run:
    """`command` is what the process is sent; see `sonolora.server.jobs.worker`."""

    id: str
    slot: str  # the name of a free one
    command: Mapping[str, Any]


Handle = TypeVar("Handle")


class Placer(Protocol[Handle]):
    """Use it as a context manager: no process of its own is left when it exits."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def capacity(self) -> Sequence[Slot]:
        """All slots there are, whether they are free or not."""
        ...

    async def start(self, run: Run, attempt: int) -> Handle:
        """Begin the run on its slot. Raises `WorkerDiedError` when there is no process for it."""
        ...

    def lines(self, handle: Handle) -> AsyncIterator[dict[str, Any]]:
        """The events of the run, up to and with the one that says how it ended.

        Raises `WorkerDiedError` when there will be none. Called again, it goes on where it was left.
        """
        ...

    async def stop(self, handle: Handle, save: bool) -> None:
        """With `save`, ask the run to save its state and end, and do not wait for it; else kill its process."""
        ...
