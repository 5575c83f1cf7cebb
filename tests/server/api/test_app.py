"""What all responses have in common, and what browsers may do."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from sonolora.server.jobs.records import Result

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


def test_metrics_are_in_the_format_of_prometheus(live, client, submitted):
    submitted()
    live.store.finish(live.store.claim().id, Result(status=422, body={}, inference_time=2.5))
    submitted()
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["sonolora_queue_length", "train"] == 1
    assert 0 <= found["sonolora_queue_age_seconds", "train"] < 60
    assert found["sonolora_requests_total", "422", "t2a"] == 1
    assert found["sonolora_crashes_total", "t2a"] == 0
    assert [value for (name, *_), value in found.items() if name == "sonolora_device_seconds_total"] == [2.5]
    assert 0 < found["sonolora_memory_used_bytes",] < found["sonolora_memory_bytes",]
    assert found["process_resident_memory_bytes",] > 0
    assert client.get("/metrics", headers={"Authorization": ""}).status_code == 401


def test_what_the_dashboard_shows_is_there(client, submitted):
    dashboard = json.loads((Path(__file__).parents[3] / "deploy" / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"(?:sonolora|process)_\w+", target["expr"])
    }
    submitted()
    told = set(re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE))
    assert asked and asked <= told


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
