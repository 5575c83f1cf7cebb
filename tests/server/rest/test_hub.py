"""The upload to the hub, with a local stand-in for it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sonolora.runs.artifacts import CONFIG, LORA, Preview, RunArtifacts
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.results import finished


class StandIn(BaseHTTPRequestHandler):
    """What `huggingface_hub` calls to make a repository and a commit of small files."""

    calls: list[tuple[str, str, bytes]]

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.calls.append((self.path, self.headers.get("Authorization", ""), body))
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self.answer(403, {"error": "no write access"})
        if self.path == "/api/repos/create":
            address = f"http://127.0.0.1:{self.server.server_port}/jo/rain"
            return self.answer(200, {"url": address, "id": "jo/rain"})
        if "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        commit = {
            "commitUrl": f"http://127.0.0.1:{self.server.server_port}/jo/rain/commit/1",
            "commitOid": "1",
            "success": True,
        }
        return self.answer(200, commit)

    def do_GET(self):
        self.calls.append((self.path, "", b""))
        self.answer(200, {"id": "jo/rain", "sha": "0" * 40})

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_): ...


@pytest.fixture
def hub(monkeypatch):
    StandIn.calls = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    # Which the library reads when it is imported, and other tests have done that already.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    yield StandIn.calls
    server.shutdown()
    server.server_close()
    thread.join(20)


@pytest.fixture
def run(live):
    """A finished run with a LoRA, a configuration and a preview."""
    body = {"training_data_url": "x", "trigger_phrase": 'a "quoted" word', "validation": [{"prompt": "soft rain"}]}
    new = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body=body, options={"name": "Rain", "base": "ltx-2.3"})
    request = live.store.add_request(new)
    folder = live.settings.run_folder(request.id)
    folder.mkdir(parents=True)
    for name in (LORA, CONFIG):
        (folder / name).write_bytes(name.encode())
    artifacts = RunArtifacts(folder)
    artifacts.put_preview(
        Preview(100, 1, "soft rain", 1, "lora"),
        lambda path: path.write_bytes(b"RIFF"),
        lambda path: path.write_bytes(b""),
    )
    live.store.claim()
    live.store.finish(request.id, finished(request, 100, folder, live.storage, 1.0))
    return request.id


def test_a_lora_goes_to_the_hub_with_its_card(client, hub, run):
    card = client.get(f"/api/runs/{run}/card").json()["card"]
    assert card.startswith("---\nlibrary_name: ltx-video\nbase_model: Lightricks/LTX-2.3\n")
    assert r'instance_prompt: "a \"quoted\" word"' in card and "- soft rain" in card
    answer = client.post(f"/api/runs/{run}/hub", json={"repo": "jo/rain", "token": "hf_good"})
    assert answer.status_code == 200, answer.text
    ((_, _, commit),) = [call for call in hub if "/commit/" in call[0]]
    files = [json.loads(line)["value"] for line in commit.splitlines() if json.loads(line)["key"] == "file"]
    assert {one["path"] for one in files} == {"README.md", "lora.safetensors", "config.json", "samples/preview-1.wav"}
    created = json.loads(next(body for path, _, body in hub if path == "/api/repos/create"))
    assert created["visibility"] == "private"
    assert "hf_good" not in answer.text


def test_why_the_hub_refuses_is_said(client, hub, run):
    answer = client.post(f"/api/runs/{run}/hub", json={"repo": "jo/rain", "token": "hf_bad"})
    assert (answer.status_code, answer.json()["detail"]) == (
        502,
        "the hub refused the upload: the token may not write there",
    )
    assert client.post(f"/api/runs/{run}/hub", json={"repo": "no slash", "token": "x"}).status_code == 422
    assert not any("/commit/" in path and authorization == "Bearer x" for path, authorization, _ in hub)
