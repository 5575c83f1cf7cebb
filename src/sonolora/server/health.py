"""What keeps the server from working, in words for its clients and its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable

_REPEAT_SECONDS = 60.0  # before the log says the same again

logger = logging.getLogger(__name__)


class Health:
    """The faults that the server waits out. Used in the event loop; the log has a line when one begins or ends."""

    def __init__(self) -> None:
        self._faults: dict[Hashable, str] = {}
        self._logged: dict[str, float] = {}

    @property
    def waiting_for(self) -> str | None:
        """What requests wait for besides their turn, such as a full disk; None while all is well."""
        return next(iter(self._faults.values()), None)

    def begin(self, key: Hashable, reason: str, detail: str | None = None) -> None:
        """Something waits, known by `key`. Clients may see `reason`; `detail`, for the log, may hold paths."""
        if self._faults.get(key) != reason:
            self._faults[key] = reason
            self.log(reason, detail)

    def end(self, key: Hashable) -> None:
        """It waits no longer."""
        reason = self._faults.pop(key, None)
        if reason is not None and reason not in self._faults.values():
            self._logged.pop(reason, None)
            logger.info("over: %s", reason)

    def log(self, reason: str, detail: str | None = None) -> None:
        """A line about a fault, unless there was one about the same a moment ago."""
        now = time.monotonic()
        if now - self._logged.get(reason, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._logged[reason] = now
            logger.error("%s", f"{reason} ({detail})" if detail else reason)
