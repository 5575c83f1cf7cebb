"""HTTP responses in JSON, with errors in one of the two published formats.

In: a body or an error. Out: a response. Format A, `{"detail": [items]}`, is for invalid input; format B,
`{"detail": text, "error_type": type}`, for every other error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from sonolora.core.errors import InputError

_TEMPORARY = frozenset({408, 429, 503, 504})  # the same request may succeed later


class JsonResponse(Response):
    """JSON in ASCII, which can carry any text."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class RejectedError(Exception):
    """Ends the handling of a request with this response."""

    def __init__(self, response: JsonResponse) -> None:
        self.response = response
        super().__init__(response.status_code)


def error_response(
    status: int, detail: str, error_type: str | None = None, headers: Mapping[str, str] | None = None
) -> JsonResponse:
    """An error in format B."""
    body = {"detail": detail} if error_type is None else {"detail": detail, "error_type": error_type}
    return JsonResponse(body, status, {**error_headers(status, error_type), **(headers or {})})


def input_error_response(error: InputError) -> JsonResponse:
    """An error in format A, with status 422."""
    return JsonResponse({"detail": error.detail()}, 422, error_headers(422))


def error_headers(status: int, error_type: str | None = None) -> dict[str, str]:
    """The headers of every error: it is not billed, and whether to try again."""
    headers = {"x-fal-billable-units": "0", "x-fal-needs-retry": "1" if status in _TEMPORARY else "0"}
    return headers if error_type is None else {**headers, "x-fal-error-type": error_type}
