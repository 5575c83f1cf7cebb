"""How long a client wants its files to be kept.

In: the headers of a submission or an upload. Out: seconds, or None for ever.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from sonolora.server.api.answers import RefusedError, refusal

_HEADERS = ("x-fal-object-lifecycle-preference", "x-fal-object-lifecycle")


def read_lifetime(headers: Mapping[str, str]) -> float | None:
    """From either published header, `{"expiration_duration_seconds": 86400}`. Raises `RefusedError` (400)."""
    for name in _HEADERS:
        if said := headers.get(name):
            return _seconds(name, said)
    return None


def _seconds(name: str, said: str) -> float | None:
    bad = RefusedError(
        refusal(400, f'{name} must be JSON such as {{"expiration_duration_seconds": 86400}}', "bad_request")
    )
    try:
        preference = json.loads(said)
    except (ValueError, RecursionError):
        raise bad from None
    if not isinstance(preference, dict):
        raise bad
    seconds = preference.get("expiration_duration_seconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise bad
    try:
        return float(seconds)
    except OverflowError:
        raise bad from None
