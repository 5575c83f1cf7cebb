"""How long a client wants its files to be kept.

In: the headers of a submission or an upload. Out: seconds, or None for ever.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from sonolora.server.api.responses import RejectedError, error_response

_HEADERS = ("x-fal-object-lifecycle-preference", "x-fal-object-lifecycle")


def read_lifetime(headers: Mapping[str, str]) -> float | None:
    """From either published header, `{"expiration_duration_seconds": 86400}`. Raises `RejectedError` (400)."""
    for name in _HEADERS:
        if value := headers.get(name):
            return _seconds(name, value)
    return None


def _seconds(header: str, value: str) -> float | None:
    detail = f'{header} must be JSON such as {{"expiration_duration_seconds": 86400}}'
    invalid = RejectedError(error_response(400, detail, "bad_request"))
    try:
        preference = json.loads(value)
    except (ValueError, RecursionError):
        raise invalid from None
    if not isinstance(preference, dict):
        raise invalid
    seconds = preference.get("expiration_duration_seconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise invalid
    try:
        return float(seconds)
    except OverflowError:
        raise invalid from None
