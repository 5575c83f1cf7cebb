"""The time that deadlines are measured by: it passes as real time does, whatever is done to the system's clock.

    clock.now()        unix seconds, as `time.time()`, but without its jumps
    clock.adjust(...)  adopts the system's clock again after it has jumped

Time while the machine sleeps counts, where the system can tell (Linux).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MIN_JUMP_SECONDS = 2.0  # less is the clock's ordinary correction

logger = logging.getLogger(__name__)


def _elapsed() -> float:
    """Seconds that nobody can set."""
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class _Clock:
    def __init__(self) -> None:
        self.offset = time.time() - _elapsed()
        self.forward = 0.0  # seconds of all forward jumps since the start

    def now(self) -> float:
        return self.offset + _elapsed()

    def adjust(self, shift_deadlines: Callable[[float, float], None]) -> None:
        """Follow the system's clock. After a jump `shift_deadlines(jump, new now)` moves what is stored with it.

        So what had 10 seconds left has 10 seconds left. Raises what `shift_deadlines` raises, and then nothing has
        changed here.
        """
        offset = time.time() - _elapsed()
        jump = offset - self.offset
        if abs(jump) < MIN_JUMP_SECONDS:
            self.offset = offset
            return
        logger.warning("the system's clock was set by %+.0f s; deadlines move with it", jump)
        before = self.offset
        if jump < 0:  # in this order nothing seems to be over in between
            self.offset = offset
        try:
            shift_deadlines(jump, offset + _elapsed())
        except BaseException:
            self.offset = before
            raise
        self.offset = offset
        self.forward += max(jump, 0.0)


_clock = _Clock()
now, adjust = _clock.now, _clock.adjust


def forward_jumps() -> float:
    """Seconds by which the system's clock was set forward since the start."""
    return _clock.forward
