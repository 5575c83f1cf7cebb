"""Datasets to work on, and an assistant that works in this process, which has loaded torch already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sonolora.server.jobs import assistant
from sonolora.server.jobs.assistant_process import Assistant


class _Silent:
    def phase(self, name: str, total: int | None) -> None: ...
    def advance(self, note: str = "", *, to: int | None = None) -> None: ...
    def message(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def metrics(self, step: int, values: dict[str, Any]) -> None: ...


@pytest.fixture
def assistant_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks are done in a thread of this process."""

    async def ask(_: Assistant, task: dict[str, Any], progress: object = None) -> dict[str, Any]:  # noqa: ARG001
        return await asyncio.to_thread(assistant._TASKS[task["task"]], task, _Silent())

    monkeypatch.setattr(Assistant, "__call__", ask)


@pytest.fixture
def dataset(client: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Makes a dataset of files; returns it with its clips."""

    def make(files: dict[str, bytes], mode: str = "t2a") -> dict[str, Any]:
        made = client.post("/api/datasets", json={"name": "Tones", "mode": mode})
        assert made.status_code == 201, made.text
        id = made.json()["id"]
        for name, data in files.items():
            answer = client.put(f"/api/datasets/{id}/files/{name}", content=data)
            assert answer.status_code == 200, answer.text
        return client.get(f"/api/datasets/{id}").json()

    return make
