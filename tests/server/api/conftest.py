"""Calls that many tests of the queue begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

BODY = {"training_data_url": "https://example.com/clips.zip", "number_of_steps": 100}


@pytest.fixture
def submit(client: httpx.Client) -> Callable[..., httpx.Response]:
    """Submits a body to an endpoint."""

    def submit(body: Any = BODY, endpoint: str = "t2a", **options: Any) -> httpx.Response:
        return client.post(f"/fal-ai/ltx23-trainer-v2/{endpoint}", json=body, **options)

    return submit


@pytest.fixture
def submitted(submit: Callable[..., httpx.Response]) -> Callable[..., str]:
    """The same for the id of the request."""

    def submitted(**options: Any) -> str:
        answer = submit(**options)
        assert answer.status_code == 200, answer.text
        return answer.json()["request_id"]

    return submitted
