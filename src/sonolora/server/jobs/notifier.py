"""Wakes answers that wait for a change of a request, so that they need not poll the store.

In: `notify(id)` from whatever wrote to the store. Out: the events that waiting answers hold.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Notifier:
    """For one event loop. It does not see changes by other processes: those who wait look at the store, too."""

    def __init__(self) -> None:
        self.closed = False  # the server stops; nothing should wait any more
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def watch(self, id: str) -> asyncio.Event:
        """Set at the next change. Call it before reading the store, so that no change falls in between."""
        if (event := self._events.get(id)) is None:
            self._events[id] = event = asyncio.Event()
        if self.closed:
            event.set()
        return event

    def notify(self, id: str) -> None:
        """Wake everything that waits for this request."""
        if event := self._events.pop(id, None):
            event.set()

    def close(self) -> None:
        """Wake everything, for good."""
        self.closed = True
        for event in list(self._events.values()):
            event.set()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set or the time is over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
