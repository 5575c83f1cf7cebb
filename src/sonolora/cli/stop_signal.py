"""Signals that end a run in order: Ctrl-C, SIGTERM, and SIGHUP when the terminal closes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
# A closing terminal sends two: one through its shell, one when the shell is gone. The second asks for nothing more.
_REPEATED = getattr(signal, "SIGHUP", None)


class StopSignal:
    """Turns the first signal into a request to stop, once a run looks for one; before that, it interrupts.

    A second signal interrupts, but for SIGHUP.
    """

    def __init__(self) -> None:
        self._is_polled = False
        self._stop = False

    def __call__(self) -> bool:
        """Whether the run is to stop."""
        self._is_polled = True
        return self._stop

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the system's signature
        if self._stop and number == _REPEATED:
            return
        if self._stop or not self._is_polled:
            raise KeyboardInterrupt
        self._stop = True
        print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Within it the signals come here, except those that the caller ignores, as `nohup` does with SIGHUP."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        for number in handled:
            signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number in handled:
                signal.signal(number, before[number])
