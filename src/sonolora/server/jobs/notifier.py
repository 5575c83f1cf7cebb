"""How answers that wait for a request learn that it has changed, without asking the store over and over.

In: `changed(id)` from whoever wrote to the store. Out: the events that waiting answers hold.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Changes:
    """For one event loop. Changes that other processes make are not seen here: waiters look for themselves, too."""

    def __init__(self) -> None:
        self.closed = False  # the server stops; nothing should wait any more
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def watch(self, id: str) -> asyncio.Event:
        """Set at the next change. Take it before reading the store, so that no change falls between."""
        if (event := self._events.get(id)) is None:
            self._events[id] = event = asyncio.Event()
        if self.closed:
            event.set()
        return event

    def changed(self, id: str) -> None:
        """Wake what waits for this request."""
        if event := self._events.pop(id, None):
            event.set()

    def close(self) -> None:
        """Wake all, for good."""
        self.closed = True
        for event in list(self._events.values()):
            event.set()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event or for so long, whichever is shorter."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
