from __future__ import annotations

import httpx
import pytest

PAGE = {"accept": "text/html"}


@pytest.fixture
def browser(live, anonymous):
    """Logged in by cookie."""
    answer = anonymous.post("/api/session", json={"key": live.key}, headers={"origin": live.address})
    assert answer.status_code == 200
    return anonymous


def test_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(live, anonymous):
    answer = anonymous.post("/api/session", json={"key": live.key})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert live.key.split(":")[1] not in cookie
    assert anonymous.get("/api/session").json()["key"]["name"] == "test"
    assert anonymous.post("/api/session", json={"key": "wrong"}).status_code == 401


def test_without_a_key_nothing_is_shown(anonymous):
    assert anonymous.get("/api/session").json() == {"key": None}
    for path in ("datasets", "runs", "queue", "keys", "modes"):
        assert anonymous.get(f"/api/{path}").status_code == 401


def test_changes_are_taken_from_the_page_alone(live, browser):
    new = {"json": {"name": "x", "mode": "t2a"}}
    assert browser.post("/api/datasets", headers={"origin": live.address}, **new).status_code == 201
    assert browser.post("/api/datasets", headers={"sec-fetch-site": "same-origin"}, **new).status_code == 201
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        assert browser.post("/api/datasets", headers={"origin": origin}, **new).status_code == 403
    assert browser.post("/api/datasets", **new).status_code == 403
    # A key in the header is no cookie: whoever has it may call from anywhere.
    key = {"authorization": f"Key {live.key}", "origin": "http://evil.example"}
    assert browser.post("/api/datasets", headers=key, **new).status_code == 201


def test_a_session_ends_with_its_key(live, browser):
    live.keys.revoke(live.key.split(":")[0])
    assert browser.get("/api/datasets").status_code == 401


def test_a_forged_or_changed_cookie_is_no_session(live):
    id = live.key.split(":")[0]
    for value in (f"{id}.9999999999.{'0' * 64}", f"{id}", "..", f"{id}.x.{'0' * 64}"):
        answer = httpx.get(f"{live.address}/api/datasets", cookies={"sonolora_session": value}, trust_env=False)
        assert answer.status_code == 401


def test_a_key_is_made_and_revoked(client, live):
    made = client.post("/api/keys", json={"name": "Jo's laptop"}).json()
    assert live.keys.check(made["secret"]).name == "Jo's laptop"
    assert "secret" not in client.get("/api/keys").text
    assert client.delete(f"/api/keys/{made['id']}").json() == {"revoked": True}
    assert live.keys.check(made["secret"]) is None
    assert client.delete(f"/api/keys/{made['id']}").status_code == 404
