"""What all responses have in common, and what browsers may do."""

from __future__ import annotations

import re

APP = "/fal-ai/ltx23-trainer-v2"
BODY = {"training_data_url": "https://example.com/clips.zip", "number_of_steps": 100}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_every_answer_has_an_id_and_is_json(client):
    for method, path in [("GET", "/nowhere/at/all"), ("DELETE", f"{APP}/t2a"), ("GET", f"{APP}/t2a"), ("GET", "/")]:
        answer = client.request(method, path)
        assert UUID.fullmatch(answer.headers["x-fal-request-id"])
        answer.json()
    for path in ("/queue/nowhere", "/nowhere", f"{APP}/t2v"):
        detail = client.post(path, json=BODY).json()["detail"]
        assert detail.startswith(f"Path {path.removeprefix(APP)} not found. There are: {APP}/t2a, {APP}/a2a, ")
    wrong = client.delete(f"{APP}/t2a")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_browsers_may_call(client):
    asked = "authorization,content-type,x-fal-queue-priority,x-fal-target-url"
    answer = client.options(
        f"{APP}/t2a",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert set(asked.split(",")) <= set(answer.headers["access-control-allow-headers"].lower().split(","))
    assert "PUT" in answer.headers["access-control-allow-methods"]
    plain = client.get(f"{APP}/requests/x", headers={"Origin": "https://app.example"})
    assert plain.headers["access-control-allow-origin"] == "*"
    assert "x-fal-request-id" in plain.headers["access-control-expose-headers"]


def test_refusals_can_be_read_by_browsers(anonymous):
    answer = anonymous.post(f"{APP}/t2a", headers={"Origin": "https://app.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "*")
