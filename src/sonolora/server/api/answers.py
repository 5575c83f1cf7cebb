"""Answers over HTTP: always JSON, errors in one of the two published forms.

In: a body or an error. Out: a response. Form A, `{"detail": [items]}`, is for faults of the input; form B,
`{"detail": text, "error_type": type}`, for everything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from sonolora.core.errors import InputError

# A client may find it otherwise when it tries again.
_TEMPORARY = frozenset({408, 429, 503, 504})
_LONGEST_ECHO = 2000  # characters of a faulty input that are sent back


class Answer(Response):
    """JSON in ASCII: whatever text is in it can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class RefusedError(Exception):
    """Ends the handling of a request with this answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.status_code)


def refusal(
    status: int, detail: str, error_type: str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """An error of form B. It bills nothing."""
    body = {"detail": detail} if error_type is None else {"detail": detail, "error_type": error_type}
    return Answer(body, status, {**failure_headers(status, error_type), **(headers or {})})


def faults(error: InputError) -> Answer:
    """An error of form A, 422."""
    return Answer({"detail": detail_of(error)}, 422, failure_headers(422))


def detail_of(error: InputError) -> list[dict[str, Any]]:
    """The items; of an input that is long or that JSON cannot say, a text that shows it."""
    return [
        {name: _shown(value) if name == "input" else value for name, value in item.as_wire().items()}
        for item in error.items
    ]


def failure_headers(status: int, error_type: str | None = None) -> dict[str, str]:
    """What every failure carries."""
    headers = {"x-fal-billable-units": "0", "x-fal-needs-retry": "1" if status in _TEMPORARY else "0"}
    return headers if error_type is None else {**headers, "x-fal-error-type": error_type}


def _shown(value: Any) -> Any:
    try:
        text = json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        value = text = repr(value)
    return value if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}..."
