"""Every way in leads to the same paths."""

from __future__ import annotations

import pytest

from sonolora.server.api.host_routing import canonical_path

APP = "/fal-ai/ltx23-trainer-v2"


@pytest.mark.parametrize(
    ("host", "path", "canonical"),
    [
        # By the published host names; the tunnel and name services lead them here.
        ("queue.fal.run", f"{APP}/t2a", f"/queue{APP}/t2a"),
        ("fal.run", f"{APP}/t2a", f"/run{APP}/t2a"),
        ("FAL.RUN:443", f"{APP}/ic-lora/a2a/stream", f"/run{APP}/ic-lora/a2a/stream"),
        ("rest.fal.ai", "/storage/auth/token", "/rest/storage/auth/token"),
        ("rest.fal.ai", "/.well-known/jwks.json", "/.well-known/jwks.json"),
        ("v3.fal.media", "/files/upload", "/cdn/files/upload"),
        ("v3.fal.media", "/files/abc/my clip.wav", "/cdn/files/abc/my clip.wav"),
        ("queue.fal.run", "/files/abc/x.wav", "/files/abc/x.wav"),
        # By path, at any other name.
        ("localhost:8000", f"{APP}/requests/1/status", f"/queue{APP}/requests/1/status"),
        ("10.0.0.7", f"/queue{APP}/t2a", f"/queue{APP}/t2a"),
        ("localhost", f"/run{APP}/t2a", f"/run{APP}/t2a"),
        ("localhost", "/rest/storage/upload/initiate", "/rest/storage/upload/initiate"),
        ("localhost", "/cdn/files/upload/multipart", "/cdn/files/upload/multipart"),
        ("localhost", "/files/abc/x.wav", "/files/abc/x.wav"),
        ("localhost", "/", "/"),
        ("", f"{APP}/t2a", f"/queue{APP}/t2a"),
        # An id may end in a slash, and so may a host in a variable.
        ("localhost", f"{APP}/t2a/", f"/queue{APP}/t2a"),
        ("localhost", f"//{APP}/t2a", f"/queue{APP}/t2a"),
        ("localhost", f"/run/{APP}/t2a/", f"/run{APP}/t2a"),
        # No way out of a face.
        ("fal.run", f"/queue{APP}/t2a", f"/run/queue{APP}/t2a"),
        ("localhost", "/runner/app", "/queue/runner/app"),
    ],
)
def test_paths(host, path, canonical):
    assert canonical_path(host, path) == canonical


def test_a_target_behind_the_proxy_face(client):
    target = f"https://queue.fal.run{APP}/requests/unknown/status?logs=1"
    for path in ("/proxy", "/proxy/", "/proxy/anything"):
        answer = client.get(path, headers={"x-fal-target-url": target})
        assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


@pytest.mark.parametrize("target", ["https://example.com/x", "http://[", "", "queue.fal.run/x", "https://user@evil/"])
def test_other_targets_are_refused(client, target):
    answer = client.get("/proxy", headers={"x-fal-target-url": target})
    assert answer.status_code == 412
    assert "x-fal-target-url" in answer.json()["detail"]


def test_a_proxy_request_without_target(client):
    assert client.get("/proxy").status_code == 400


def test_the_query_of_the_target_counts(client):
    body = {"training_data_url": "https://example.com/x.zip"}
    target = f"https://queue.fal.run{APP}/t2a?fal_webhook=ftp%3A%2F%2Fx"
    answer = client.post("/proxy?fal_webhook=https://ok", headers={"x-fal-target-url": target}, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "fal_webhook"]


def test_hosts_route(live, client):
    """As the tunnel and name services bring them: by their host alone."""
    body = {"training_data_url": "https://example.com/x.zip"}
    answer = client.post(f"{APP}/t2a", json=body, headers={"Host": "queue.fal.run"})
    assert answer.json()["status"] == "IN_QUEUE"
    # A server that only this machine reaches gives its own address: browsers go there, too.
    assert answer.json()["status_url"].startswith(f"http://127.0.0.1:{live.settings.port}/fal-ai/")
    token = client.post("/storage/auth/token?storage_type=fal-cdn-v3", json={}, headers={"Host": "rest.fal.ai"})
    assert token.json()["token_type"] == "Bearer"


@pytest.mark.parametrize("host", ["evil\\@x", "a b", "x/y", ""])
def test_a_strange_host_is_not_repeated(live, client, host):
    body = {"training_data_url": "https://example.com/x.zip"}
    answer = client.post(f"/queue{APP}/t2a", json=body, headers={"Host": host})
    if answer.status_code == 200:
        assert answer.json()["status_url"].startswith(live.address)


def test_own_host_is_kept(client):
    answer = client.post(
        f"{APP}/t2a", json={"training_data_url": "https://example.com/x.zip"}, headers={"Host": "gpu.lan:81"}
    )
    assert answer.json()["cancel_url"].startswith("http://gpu.lan:81/fal-ai/ltx23-trainer-v2/requests/")


def test_behind_a_proxy_that_speaks_https(client):
    answer = client.post(
        f"{APP}/t2a",
        json={"training_data_url": "https://example.com/x.zip"},
        headers={"Host": "train.example.com", "X-Forwarded-Proto": "https"},
    )
    assert answer.json()["response_url"].startswith("https://train.example.com/fal-ai/")


def test_files_and_descriptions_need_no_key(anonymous):
    assert anonymous.get("/openapi.json").status_code == 200
    assert anonymous.get("/.well-known/jwks.json").json() == {"keys": [{"kty": "OKP"}]}
    assert anonymous.get("/health").json() == {"status": "ok"}
    assert anonymous.get("/files/nope/x.wav").status_code == 404
