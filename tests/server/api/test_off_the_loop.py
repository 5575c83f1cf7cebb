"""Where a database is not on this machine, nothing waits for it inside the event loop."""

from __future__ import annotations

import asyncio
from functools import wraps

import pytest

APP = "/fal-ai/ltx23-trainer-v2"
BODY = {"training_data_url": "https://example.com/clips.zip", "rank": 8, "number_of_steps": 100}


@pytest.fixture
def far(live, monkeypatch):
    """The server's database, as if it were far away; the names of calls that came from the loop."""
    database, wrong = live.store._database, []

    def watched(name):
        call = getattr(database, name)

        @wraps(call)
        def watching(*args, **kwargs):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                wrong.append(name)
            return call(*args, **kwargs)

        monkeypatch.setattr(database, name, watching)

    monkeypatch.setattr(database, "is_local", False)
    for name in ("transaction", "write", "read", "fetch"):
        watched(name)
    return wrong


def test_no_route_waits_for_the_database_in_the_loop(live, client, far):
    submitted = client.post(f"{APP}/t2a", json=BODY)
    assert submitted.status_code == 200
    id = submitted.json()["request_id"]
    uploaded = client.post("/cdn/files/upload", content=b"zip").json()["access_url"]
    begun = client.post("/rest/storage/upload/initiate", json={"file_name": "a.zip"}).json()["upload_url"]
    calls = {
        "status": client.get(f"{APP}/requests/{id}/status?logs=1"),
        "file": client.get(uploaded),
        "put": client.put(begun, content=b"zip"),
        "token": client.post("/rest/storage/auth/token"),
        "cancel": client.put(f"{APP}/requests/{id}/cancel"),
        "keys": client.get("/api/keys"),
        "queue": client.get("/api/queue"),
        "session": client.get("/api/session"),
        "log in": client.post("/api/session", json={"key": live.key}),
        "runs": client.get("/api/runs?kind=all"),
        "run": client.get(f"/api/runs/{id}"),
        "log": client.get(f"/api/runs/{id}/log"),
        "metrics": client.get(f"/api/runs/{id}/metrics"),
        "artifacts": client.get(f"/api/runs/{id}/artifacts"),
        "pause": client.post(f"/api/runs/{id}/pause"),
        "rename": client.patch(f"/api/runs/{id}", json={"name": "rain"}),
        "move": client.patch(f"/api/queue/{id}", json={"before": None}),
        "retry": client.post(f"/api/runs/{id}/retry", json={}),
    }
    assert {name: answer.status_code for name, answer in calls.items() if answer.status_code >= 400} == {}
    for stream in (f"{APP}/requests/{id}/status/stream", f"/api/runs/{id}/events"):
        with client.stream("GET", stream) as response:
            assert next(response.iter_lines())
    assert far == []
