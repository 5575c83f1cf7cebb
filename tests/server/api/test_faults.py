"""What clients get while the server's disk is full or its database is at fault, after a key is revoked, and for
webhooks that could never be sent."""

from __future__ import annotations

import time

import httpx
import pytest

from sonolora.server.database.faults import StoreError

BODY = {"training_data_url": "https://example.com/clips.zip", "number_of_steps": 100}
T2A = "/fal-ai/ltx23-trainer-v2/t2a"
REQUESTS = "/fal-ai/ltx23-trainer-v2/requests"
FULL = "the server's database cannot be used: the disk is full"


@pytest.fixture
def full(live, monkeypatch):
    """Nothing can be written to the database."""
    database = live.store._database

    def fail(*_, **__):
        raise StoreError(database.path, "the disk is full", "Free some space")

    def begin():
        for name in ("write", "transaction"):
            monkeypatch.setattr(database, name, fail)

    return begin


def submit(client, **query):
    return client.post(T2A, json=BODY, params=query)


def test_a_full_disk(live, client, full, caplog):
    id = submit(client).json()["request_id"]
    connections = client._transport._pool.connections
    full()
    initiate = "/rest/storage/upload/initiate", "/rest/storage/upload/initiate-multipart"
    calls = [
        lambda: submit(client),
        lambda: client.put(f"{REQUESTS}/{id}/cancel"),
        lambda: client.post(f"/run{T2A}", json=BODY),
        lambda: client.post(f"/run{T2A}/stream", json=BODY),
        lambda: client.post("/cdn/files/upload", content=b"zip"),
        *(lambda path=path: client.post(path, json={"file_name": "a.zip"}) for path in initiate),
        lambda: client.post("/cdn/files/upload/multipart"),
    ]
    for call in calls:
        answer = call()
        assert answer.status_code == 503, answer.text
        assert answer.json() == {"detail": f"Try again later: {FULL}."}
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["x-fal-needs-retry"] == "1"
        assert str(live.settings.folder) not in answer.text
    assert client.get(f"{REQUESTS}/{id}/status").json()["status"] == "IN_QUEUE", "reading goes on"
    assert client._transport._pool.connections == connections, "no connection was cut"
    assert len([line for line in caplog.records if "disk is full" in line.getMessage()]) == 1, "said once"
    assert "Traceback" not in caplog.text
    assert not list((live.settings.folder / "files" / "incoming").iterdir())


def test_a_damaged_page(live, client, monkeypatch):
    def damaged(*_, **__):
        raise StoreError(live.settings.database_address, "it is damaged", "Restore a backup")

    id = submit(client).json()["request_id"]
    monkeypatch.setattr(live.store._database, "fetch", damaged)
    for answer in (submit(client), client.get(f"{REQUESTS}/{id}"), client.get(f"{REQUESTS}/{id}/status")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert answer.json()["detail"].endswith("cannot be used: it is damaged.")


def test_a_status_says_what_its_request_waits_for(live, client):
    id = submit(client).json()["request_id"]
    url = f"{REQUESTS}/{id}/status"
    assert "waiting_for" not in client.get(url).json()
    assert client.get("/health").json() == {"status": "ok"}
    live.health.begin("disk", FULL)
    try:
        assert client.get(url).json()["waiting_for"] == FULL
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "waiting", "waiting_for": FULL})
        with client.stream("GET", f"{url}/stream") as stream:
            assert FULL in next(stream.iter_lines())
    finally:
        live.health.end("disk")
    assert "waiting_for" not in client.get(url).json()


def test_a_stream_outlasts_a_fault(live, client, monkeypatch):
    id = submit(client).json()["request_id"]
    request, failures = live.store.request, iter(range(2))

    def flaky(id):
        if next(failures, None) is not None:
            raise StoreError(live.settings.database_address, "it is damaged")
        return request(id)

    with client.stream("GET", f"{REQUESTS}/{id}/status/stream") as stream:
        lines = stream.iter_lines()
        assert "IN_QUEUE" in next(lines)
        monkeypatch.setattr(live.store, "request", flaky)
        live.store.request_cancel(id)
        live.store.claim()
        live.store.add_logs(id, [(0.0, "INFO", "after the fault")])
        live.changed(id)
        assert any("IN_QUEUE" in line or "IN_PROGRESS" in line for line in lines if line)


class TestRevokedKeys:
    def test_a_token_of_the_cdn_ends(self, live, client):
        token = client.post("/rest/storage/auth/token").json()["token"]
        head = {"Authorization": f"Bearer {token}"}
        assert httpx.post(f"{live.address}/cdn/files/upload", content=b"x", headers=head).status_code == 200
        live.keys.revoke(live.key.partition(":")[0])
        for path in ("/cdn/files/upload", "/cdn/files/upload/multipart"):
            answer = httpx.post(f"{live.address}{path}", content=b"x", headers=head)
            assert (answer.status_code, "revoked" in answer.json()["detail"]) == (401, True)

    def test_signed_addresses_end(self, live, client):
        whole = client.post("/rest/storage/upload/initiate", json={"file_name": "a.zip"}).json()["upload_url"]
        parted = client.post("/rest/storage/upload/initiate-multipart", json={"file_name": "a"}).json()["upload_url"]
        part = parted.replace("?", "/1?")
        assert httpx.put(part, content=b"x").status_code == 200
        live.keys.revoke(live.key.partition(":")[0])
        complete = parted.replace("?", "/complete?")
        answers = [
            httpx.put(whole, content=b"x"),
            httpx.put(part, content=b"x"),
            httpx.post(complete, json={"parts": [{"partNumber": 1, "etag": "x"}]}),
        ]
        for answer in answers:
            assert (answer.status_code, "revoked" in answer.json()["detail"]) == (403, True), answer.text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/x", "'127.0.0.1' is not on the public internet"),
        ("http://127.1/x", "not on the public internet"),
        ("https://[::1]/", "not on the public internet"),
        ("http://localhost:8080/hook", "'localhost' is not on the public internet"),
        ("http://10.0.0.7/hook", "not on the public internet"),
        ("https://example.com:99999/", "port"),
        ("https://example.com:0/", "its port is 0"),
        (f"https://{'a' * 64}.example/", "not a valid URL"),
        ("https://a..b/", "not a valid URL"),
        ("https://xn--a/", "not a valid URL"),
        ("ftp://example.com/", "not a valid URL"),
    ],
)
def test_a_webhook_that_can_never_be_sent_is_refused(live, client, url, words):
    before = len(live.store.requests(limit=1000))
    answer = submit(client, fal_webhook=url)
    assert answer.status_code == 422, answer.text
    (item,) = answer.json()["detail"]
    assert item["loc"] == ["query", "fal_webhook"]
    assert words in item["msg"]
    assert len(live.store.requests(limit=1000)) == before


@pytest.mark.parametrize("url", ["https://hooks.example/x?a=b", "http://8.8.8.8:8080/", "https://[2606:4700::1111]/x"])
def test_other_webhooks_are_taken(client, url):
    answer = submit(client, fal_webhook=url)
    assert answer.status_code == 200, answer.text


def test_content_that_was_changed_on_the_disk_is_not_sent_under_its_checksum(live, client):
    url = client.post("/cdn/files/upload", content=b"content").json()["access_url"]
    first = httpx.get(url)
    path = live.storage.local(url)
    assert (first.status_code, first.content) == (200, b"content")
    path.write_bytes(b"CONTENT")
    for head in ({}, {"If-None-Match": first.headers["etag"]}, {"Range": "bytes=0-3"}):
        answer = httpx.get(url, headers=head)
        assert answer.status_code == 404, (answer.text, time.time())
        assert "etag" not in answer.headers
