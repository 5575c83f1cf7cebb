from __future__ import annotations

import json
import threading
import time
import zipfile

import pytest
from rest_support import tone

from sonolora.server.jobs import assistant
from sonolora.server.jobs.active_job import ActiveJob
from sonolora.server.jobs.fair_share import ShareRules
from sonolora.server.jobs.records import Kind, NewRequest, Result, State
from sonolora.server.jobs.results import CANCELLED

TONES = {"a.wav": tone(), "a.txt": b"a low tone"}
FIELDS = {"audio_duration_seconds": 0.5, "number_of_steps": 100}


@pytest.fixture(autouse=True)
def _nothing_waits(live):
    """The server is that of the module: what a test has queued ends with it."""
    yield
    for request in (*live.store.queue(), *live.store.requests(state=State.RUNNING)):
        live.store.finish(request.id, CANCELLED)


@pytest.fixture
def run(client, dataset):
    """Starts a run; returns how it is shown."""

    def start(mode="t2a", files=TONES, **body):
        id = dataset(files, mode)["id"]
        answer = client.post("/api/runs", json={"mode": mode, "dataset": id, "fields": FIELDS, **body})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return start


def test_a_run_gets_the_dataset_as_it_was(client, live, run):
    shown = run(name="First", settings={"seed": 3, "preview_every": 50})
    assert (shown["state"], shown["name"], shown["settings"]["seed"]) == ("queued", "First", 3)
    body = live.store.body(shown["id"])
    before = live.storage.local(body["training_data_url"]).read_bytes()
    client.put(f"/api/datasets/{shown['dataset']['id']}/captions", json={"captions": {"a": "later"}})
    assert live.storage.local(body["training_data_url"]).read_bytes() == before
    with zipfile.ZipFile(live.storage.local(body["training_data_url"])) as archive:
        assert archive.read("a.txt") == b"a low tone"
    assert live.woken.is_set()
    client.patch(f"/api/runs/{shown['id']}", json={"name": "Renamed"})
    assert client.get("/api/runs").json()["runs"][0]["name"] == "Renamed"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"fields": {"rank": 7}}, "rank"),
        ({"settings": {"device": "cpu"}}, "settings"),
        ({"settings": {"v2a_video": "frozen-cached"}}, "v2a_video"),
        ({"base": "unknown"}, "base"),
        ({"dataset": "nothing-here"}, "dataset"),
        ({"mode": "t2b"}, "mode"),
        ({"fields": {**FIELDS, "rank": [8, 9]}}, "rank"),
        ({"fields": {**FIELDS, "rank": [8], "learning_rate": [1e-4]}}, "learning_rate"),
        ({"fields": {**FIELDS, "rank": [8, 16]}, "settings": {"batch_size": 2}}, "batch_size"),
    ],
)
def test_what_is_wrong_is_said_at_once(client, dataset, change, where):
    id = dataset(TONES)["id"]
    answer = client.post("/api/runs", json={"mode": "t2a", "dataset": id, "fields": FIELDS, **change})
    assert answer.status_code == 422
    assert where in answer.json()["detail"][0]["loc"]


SWEEP = {**FIELDS, "learning_rate": [1e-4, 1e-3], "rank": [8, 16], "held_out": 1}


def test_several_learning_rates_and_ranks_make_a_sweep(client, live, run):
    run(name="One LoRA")
    shown = run(name="Which rate", fields={**SWEEP, "validation": [{"prompt": "x"}]}, settings={"seed": 3})
    pairs = [(one["rank"], one["learning_rate"]) for one in shown["sweep"]["members"]]
    assert pairs == [(8, 1e-4), (8, 1e-3), (16, 1e-4), (16, 1e-3)]
    assert (shown["endpoint"], shown["members"], shown["sweep"]["standings"]) == ("t2a/sweep", 4, None)
    assert (shown["settings"]["held_out"], shown["settings"]["seed"]) == (1, 3)
    assert "no previews" in client.get(f"/api/runs/{shown['id']}/log").json()["log"][0]["message"]
    assert [one["id"] for one in client.get("/api/runs?kind=sweep").json()["runs"]] == [shown["id"]]
    assert [one["members"] for one in client.get("/api/runs?limit=2").json()["runs"]] == [4, 1]
    folder = live.settings.run_folder(shown["id"])
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text('{"best": 2}')
    assert client.get(f"/api/runs/{shown['id']}").json()["sweep"]["standings"] == {"best": 2}
    again = client.post(f"/api/runs/{shown['id']}/retry", json={}).json()
    assert again["sweep"]["members"] == shown["sweep"]["members"]


def test_training_goes_on_from_the_lora_of_a_run(client, live, run, dataset, tmp_path):
    first, id = run(name="First"), dataset(TONES)["id"]
    body = {"mode": "t2a", "dataset": id, "fields": FIELDS, "from_run": first["id"]}

    def refused(**changes):
        (fault,) = client.post("/api/runs", json={**body, **changes}).json()["detail"]
        assert fault["loc"] == ["body", "from_run"]
        return fault["msg"]

    assert refused() == "this run has no LoRA: it is not finished"
    assert refused(from_run="x") == "there is no such run"
    lora = {"url": "/files/abc/lora.safetensors"}
    live.store.finish(first["id"], Result(status=200, body={"lora_file": lora}))
    assert refused(fields=SWEEP).startswith("a sweep begins with the base")
    further = client.post("/api/runs", json=body).json()
    assert further["from_run"] == first["id"]
    request, access = live.store.request(further["id"]), live.store.keys.access_of(live.key.partition(":")[0])
    command = ActiveJob(request, {}, tmp_path, "cpu", None, None).command(live.settings, live.storage, access)
    assert command["from_lora"].endswith(lora["url"])
    assert command["sources"]["known"] == {command["from_lora"]: None}, "a file of this server, which is gone"


@pytest.mark.usefixtures("assistant_here")
def test_the_estimate_of_a_sweep_counts_all_its_members(client, dataset, monkeypatch):
    plans = []

    def estimate(task, _):
        plans.append(task["sweep"]["members"])
        return {}

    monkeypatch.setitem(assistant._TASKS, "estimate", estimate)
    id = dataset(TONES)["id"]
    assert client.post("/api/estimate", json={"mode": "t2a", "dataset": id, "fields": SWEEP}).status_code == 200
    assert len(plans[0]) == 4


def test_a_clip_of_the_dataset_stands_for_an_address(live, run):
    entry = {"prompt": "x", "audio_url": "clip:a.wav", "time_ranges": [[0.1, 0.2]]}
    files = {**TONES, "a_mask.json": b"[[0.1, 0.2]]"}
    shown = run("audio-inpaint", files, fields={**FIELDS, "validation": [entry]})
    address = live.store.body(shown["id"])["validation"][0]["audio_url"]
    assert live.storage.local(address).read_bytes() == TONES["a.wav"]


@pytest.mark.slow
@pytest.mark.usefixtures("assistant_here")
def test_an_estimate_has_what_the_page_shows(client, dataset):
    id = dataset(TONES)["id"]
    answer = client.post("/api/estimate", json={"mode": "t2a", "dataset": id, "fields": FIELDS}, timeout=300)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    shown = ("training_seconds", "preview_seconds", "hosted_price", "available", "peak")
    assert all(found[name] > 0 for name in shown) and found["fits"]


def test_pause_resume_cancel_and_retry(client, live, run):
    id = run()["id"]
    assert client.post(f"/api/runs/{id}/pause").json()["state"] == "paused"
    assert live.store.claim() is None
    assert client.post(f"/api/runs/{id}/resume").json()["state"] == "queued"
    assert live.store.claim().id == id
    assert client.post(f"/api/runs/{id}/pause").json()["state"] == "pausing"
    assert live.store.to_pause() == [id]
    assert client.post(f"/api/runs/{id}/cancel").json()["state"] == "cancelling"
    live.store.finish(id, CANCELLED)
    assert client.get(f"/api/runs/{id}").json()["state"] == "cancelled"
    for what in ("pause", "cancel"):
        assert client.post(f"/api/runs/{id}/{what}").status_code == 409
    again = client.post(f"/api/runs/{id}/retry", json={}).json()
    assert again["id"] != id and again["fields"] == client.get(f"/api/runs/{id}").json()["fields"]


def test_where_the_share_decides_nothing_is_moved(client, live, run, monkeypatch):
    ids = [run()["id"] for _ in range(2)]
    other, low = (
        live.store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={}, priority=priority)).id
        for priority in (0, 1)
    )
    monkeypatch.setattr(live.store, "rules", ShareRules(hours=24.0))
    answer = client.patch(f"/api/queue/{other}", json={"before": ids[0]})
    assert (answer.status_code, "different owners" in answer.json()["detail"]) == (409, True)
    for id, before in ((ids[1], ids[0]), (low, ids[0]), (other, None)):
        assert client.patch(f"/api/queue/{id}", json={"before": before}).status_code == 200
    for id in (*ids, other, low):
        live.store.finish(id, CANCELLED)


def test_the_queue_is_reordered(client, live, run):
    ids = [run()["id"] for _ in range(3)]
    low = live.store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={}, priority=1)).id
    order = lambda: [one["id"] for one in client.get("/api/queue").json()["waiting"]]  # noqa: E731
    assert order() == [*ids, low]
    client.patch(f"/api/queue/{ids[2]}", json={"before": ids[0]})
    assert order() == [ids[2], ids[0], ids[1], low]
    client.patch(f"/api/queue/{ids[2]}", json={"before": ids[1]})
    assert order() == [ids[0], ids[2], ids[1], low]
    client.patch(f"/api/queue/{low}", json={"before": ids[0]})
    client.patch(f"/api/queue/{ids[0]}", json={"before": None})
    assert order() == [low, ids[2], ids[1], ids[0]]
    assert [live.store.queue_position(id) for id in order()] == [0, 1, 2, 3]
    assert client.patch("/api/queue/nothing", json={"before": ids[1]}).status_code == 409
    assert [live.store.claim().id for _ in range(4)] == [low, ids[2], ids[1], ids[0]]


def read_events(client, id, last=None):
    """The events of a stream until its end."""
    headers = {} if last is None else {"last-event-id": last}
    events, current = [], {}
    with client.stream("GET", f"/api/runs/{id}/events", headers=headers) as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if not line and current:
                events.append((current["event"], json.loads(current["data"]), current["id"]))
                current = {}
            elif name in ("event", "data", "id"):
                current[name] = value
    return events


def test_events_continue_where_a_connection_broke(client, live, run):
    id = run()["id"]
    live.store.claim()
    live.store.record(id, logs=[(1.0, "INFO", "one")], metrics=[(10, {"loss": 0.5})], progress={"phase": "training"})
    collected = []
    reading = threading.Thread(target=lambda: collected.extend(read_events(client, id)))
    reading.start()
    time.sleep(0.5)
    live.store.record(id, logs=[(2.0, "INFO", "two")], metrics=[(10, {"loss": 0.5, "train_eval_loss": 1.0})])
    live.changed(id)
    time.sleep(0.5)
    live.store.record(id, metrics=[(20, {"loss": 0.4})])
    live.store.finish(id, Result(status=200, body={}))
    live.changed(id)
    reading.join(20)
    kinds = [kind for kind, _, _ in collected]
    assert kinds[-1] == "end" and {"run", "log", "metrics", "previews"} <= set(kinds)
    lines = [line["message"] for kind, data, _ in collected if kind == "log" for line in data]
    assert lines == ["one", "two"]
    rows = [row for kind, data, _ in collected if kind == "metrics" for row in data]
    both = {"step": 10, "loss": 0.5, "train_eval_loss": 1.0}
    assert rows == [{"step": 10, "loss": 0.5}, both, {"step": 20, "loss": 0.4}]
    first = next(mark for kind, _, mark in collected if kind == "log")
    again = read_events(client, id, first)
    assert [line["message"] for kind, data, _ in again if kind == "log" for line in data] == ["two"]
    assert [row["step"] for kind, data, _ in again if kind == "metrics" for row in data] == [10, 20]
    assert [kind for kind, _, _ in read_events(client, id, "rubbish")][-1] == "end"


def test_files_of_a_run_need_a_key_or_a_signature(client, anonymous, live, run):
    id = run()["id"]
    folder = live.settings.run_folder(id)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / ".hidden").write_text("x")
    (listed,) = client.get(f"/api/runs/{id}/artifacts").json()["artifacts"]
    assert listed["name"] == "metrics.jsonl"
    del anonymous.headers["authorization"]  # it is the same client
    path = f"/api/runs/{id}/artifacts/metrics.jsonl"
    assert anonymous.get(path).status_code == 401
    assert anonymous.get("/" + listed["url"]).text == "{}\n"
    assert anonymous.get("/" + listed["url"].replace("metrics", "other")).status_code == 401
    assert anonymous.get("/" + listed["url"].replace("signature=", "signature=0")).status_code == 401
    anonymous.headers["authorization"] = f"Key {live.key}"
    for name in (".hidden", "../../server.db", "%2e%2e%2f%2e%2e%2fserver.db"):
        assert client.get(f"/api/runs/{id}/artifacts/{name}").status_code in (401, 404)


def test_sounds_go_ahead_of_trainings(client, live, run):
    training = run()["id"]
    body = {"mode": "t2a", "prompts": ["x", "y"], "scales": [0, 1], "seeds": [1], "settings": {"steps": 4}}
    answer = client.post("/api/generations", json=body)
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert [(one["prompt"], one["scale"]) for one in shown["samples"]] == [("x", 0), ("x", 1), ("y", 0), ("y", 1)]
    claimed = live.store.claim()
    assert (claimed.id, claimed.kind, claimed.state) == (shown["id"], Kind.GENERATE, State.RUNNING)
    assert client.get("/api/runs?kind=generate").json()["runs"][0]["id"] == shown["id"]
    for wrong in (
        {"scales": [float(9)] * 201},
        {"run": training},
        {"settings": {"lora": "/etc"}},
        {"fields": {"seconds": 0}},
    ):
        assert client.post("/api/generations", json={**body, **wrong}).status_code == 422
    path = client.post("/api/generations", json={**body, "mode": "a2a", "fields": {"reference": "/etc/passwd"}})
    assert path.status_code == 422


def test_forms_are_made_from_the_models_that_validate(client):
    found = client.get("/api/modes").json()
    assert [mode["name"] for mode in found["modes"]][:2] == ["t2a", "a2a"]
    fields = {field["name"]: field for field in found["modes"][0]["fields"]}
    assert fields["number_of_steps"] == {
        "name": "number_of_steps", "type": "integer", "help": "Number of optimisation steps.",
        "default": 2000, "minimum": 100, "maximum": 20000, "first": True,
    }  # fmt: skip
    assert fields["rank"]["choices"] == [8, 16, 32, 64, 128]
    assert "resolution" not in fields, "it has no effect in t2a"
    assert any(field["name"] == "resolution" for field in found["modes"][2]["fields"])


def test_the_description_names_every_path(client, anonymous):
    document = anonymous.get("/api/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    events = document["paths"]["/api/runs/{id}/events"]["get"]["responses"]["200"]["content"]
    assert events.keys() == {"text/event-stream"}
    start = document["paths"]["/api/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert start["$ref"].endswith("/NewRun")
    for path, methods in document["paths"].items():
        for method in methods.keys() & {"get"}:
            answer = client.get(path.replace("{id}", "unknown").replace("{", "").replace("}", ""))
            assert answer.status_code != 500 and "not found" not in str(answer.json().get("detail", "")), (method, path)
