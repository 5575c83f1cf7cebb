"""Deliveries to a real receiver, from a real job store, verified as the published recipes say."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sonolora.core.errors import SonoloraError
from sonolora.server import webhooks
from sonolora.server.database.faults import StoreError
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.health import Health
from sonolora.server.jobs import retrying
from sonolora.server.jobs.deliveries import Deliveries
from sonolora.server.jobs.records import Delivery, NewRequest, Request, Result
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.webhooks import RETRY_AFTER, Deliverer, jwks, load_signing_key, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DONE = Result(status=200, body={"lora_file": {"url": "/files/x/lora.safetensors"}}, billable_units=100)
FAULTY = Result(status=422, body={"detail": [{"loc": ["body", "rank"], "msg": "Ünfit", "type": "value_error"}]})


class Receiver:
    """A webhook: answers with the statuses of `answers` in turn, the last one for ever; keeps what came."""

    def __init__(self) -> None:
        self.answers: list[int] = [200]
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.times: list[float] = []
        self.hold: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=SECRET"

    def start(self) -> None:
        receiver = self

        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.times.append(time.monotonic())
                receiver.got.append((dict(self.headers), body))
                receiver.hold()
                status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "1000000000")  # nobody should want the body
                self.end_headers()

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(SqliteDatabase(tmp_path / "server.db")) as database:
        yield Store(database)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.01)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "RETRY_AFTER", (0.01,) * 10)


def finished(store: Store, url: str, result: Result = DONE) -> str:
    """A request with a webhook, done."""
    new = NewRequest(endpoint="t2a", mode="t2a", body={}, key_id="k", webhook=url)
    request = store.add_request(new)
    assert store.finish(request.id, result)
    return request.id


def payload_of(request: Request) -> Any:
    assert request.result
    return {"absolute": True, **request.result.body}


def deliver(
    store: Store,
    until: Callable[[], bool],
    *,
    allow_private: bool = True,
    payload: Any = payload_of,
    deliveries: Deliveries | None = None,
) -> None:
    """Run a deliverer until something has become true, then stop it."""

    async def run() -> None:
        deliverer = Deliverer(
            store,
            deliveries or Deliveries(store._database),
            Retrying(Health()),
            KEY,
            "user-7",
            allow_private=allow_private,
            payload_of=payload,
        )
        task = asyncio.create_task(deliverer.run())
        try:
            async with asyncio.timeout(20):
                while not (task.done() or until()):
                    await asyncio.sleep(0.005)
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def state(store: Store, id: str) -> Delivery:
    (delivery,) = store.deliveries(id)
    return delivery


def settled(store: Store, *ids: str) -> Callable[[], bool]:
    return lambda: all(state(store, id).next_try is None for id in ids)


def verify_as_published(headers: dict[str, str], body: bytes, key_set: dict[str, Any], now: float) -> bool:
    """The recipe of the published documentation, step by step, with no repair of what it is given."""
    request_id = headers["X-Fal-Webhook-Request-Id"]
    user_id = headers["X-Fal-Webhook-User-Id"]
    timestamp = headers["X-Fal-Webhook-Timestamp"]
    signature = bytes.fromhex(headers["X-Fal-Webhook-Signature"])
    if abs(now - int(timestamp)) > 300:
        return False
    message = "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()]).encode("utf-8")
    for key in key_set["keys"]:
        try:
            Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key.get("x", ""))).verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False


NODE_VERIFIER = """
const crypto = require("node:crypto");
const { headers, body, jwks } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const h = (name) => headers["X-Fal-Webhook-" + name];
const raw = Buffer.from(body, "base64");
const digest = crypto.createHash("sha256").update(raw).digest("hex");
const message = Buffer.from([h("Request-Id"), h("User-Id"), h("Timestamp"), digest].join("\\n"), "utf8");
const signature = Buffer.from(h("Signature"), "hex");
(async () => {
  const good = [];
  for (const key of jwks.keys) {
    good.push(crypto.verify(null, message, crypto.createPublicKey({ key, format: "jwk" }), signature));
    const bytes = Buffer.from(key.x, "base64url");
    const imported = await crypto.webcrypto.subtle.importKey("raw", bytes, { name: "Ed25519" }, false, ["verify"]);
    good.push(await crypto.webcrypto.subtle.verify("Ed25519", imported, signature, message));
    const whole = await crypto.webcrypto.subtle.importKey("jwk", key, { name: "Ed25519" }, false, ["verify"]);
    good.push(await crypto.webcrypto.subtle.verify("Ed25519", whole, signature, message));
  }
  console.log(JSON.stringify(good));
})();
"""


def test_a_delivery_is_the_published_one_and_its_signature_holds(store: Store, receiver: Receiver) -> None:
    id = finished(store, receiver.url)
    deliver(store, settled(store, id))
    ((headers, body),) = receiver.got
    assert json.loads(body) == {
        "request_id": id,
        "gateway_request_id": id,
        "status": "OK",
        "payload": {"absolute": True, **DONE.body},
    }
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Fal-Webhook-Request-Id"] == id and headers["X-Fal-Webhook-User-Id"] == "user-7"
    assert len(headers["X-Fal-Webhook-Signature"]) == 128
    key_set = jwks(KEY)
    assert verify_as_published(headers, body, key_set, time.time())
    assert not verify_as_published(headers, body + b" ", key_set, time.time())
    assert not verify_as_published(headers | {"X-Fal-Webhook-User-Id": "user-8"}, body, key_set, time.time())
    assert not verify_as_published(headers, body, jwks(Ed25519PrivateKey.generate()), time.time())
    assert not verify_as_published(headers, body, key_set, time.time() + 400)
    assert (state(store, id).attempts, state(store, id).outcome) == (1, "answered with status 200")


def test_a_failed_request_is_told_of_with_its_error(store: Store, receiver: Receiver) -> None:
    id = finished(store, receiver.url, FAULTY)
    deliver(store, settled(store, id), payload=lambda request: request.result.body)
    ((headers, body),) = receiver.got
    assert json.loads(body) == {
        "request_id": id,
        "gateway_request_id": id,
        "status": "ERROR",
        "error": "Invalid status code: 422",
        "payload": FAULTY.body,
    }
    assert verify_as_published(headers, body, jwks(KEY), time.time())


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_verifies_the_signature() -> None:
    body = '{"payload":"ü"}'.encode()
    sent = {"headers": sign(KEY, "r-1", "user-7", body, 1_700_000_000), "jwks": jwks(KEY)}

    def verify(body: bytes) -> list[bool]:
        said = json.dumps({**sent, "body": base64.b64encode(body).decode()})
        node = subprocess.run(["node", "-e", NODE_VERIFIER], input=said, capture_output=True, text=True, check=True)
        return json.loads(node.stdout)  # type: ignore[no-any-return]

    assert verify(body) == [True] * 3
    assert verify(body + b" ") == [False] * 3


def test_the_key_set_has_the_padding_that_the_published_verifier_needs() -> None:
    (key,) = jwks(KEY)["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    assert len(key["x"]) == 44 and key["x"].endswith("=")
    assert base64.urlsafe_b64decode(key["x"]) == KEY.public_key().public_bytes_raw()


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = load_signing_key(tmp_path)
    assert (tmp_path / "webhook_key.pem").stat().st_mode & 0o777 == 0o600
    assert jwks(load_signing_key(tmp_path)) == jwks(key)
    assert [path.name for path in tmp_path.iterdir()] == ["webhook_key.pem"]


@pytest.mark.parametrize("kind", ["damaged", "of another kind"])
def test_a_key_that_cannot_be_used_is_an_error_and_stays(tmp_path: Path, kind: str) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    content = b"damaged" if kind == "damaged" else other
    (tmp_path / "webhook_key.pem").write_bytes(content)
    with pytest.raises(SonoloraError, match=r"webhook_key\.pem"):
        load_signing_key(tmp_path)
    assert (tmp_path / "webhook_key.pem").read_bytes() == content


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [500, 404, 429])
def test_whatever_is_not_2xx_is_tried_again(store: Store, receiver: Receiver, status: int) -> None:
    receiver.answers = [status, status, 204]
    id = finished(store, receiver.url)
    deliver(store, settled(store, id))
    assert len(receiver.got) == 3 and state(store, id).attempts == 3
    (first, *others) = (body for _, body in receiver.got)
    assert others == [first, first]
    assert all(verify_as_published(*one, jwks(KEY), time.time()) for one in receiver.got)


def test_retries_go_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "RETRY_AFTER", (0.3,) * 10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = SqliteDatabase(tmp_path / "server.db")
    before = Store(database)
    id = finished(before, f"http://127.0.0.1:{port}/hook")
    deliver(before, lambda: state(before, id).attempts == 1)  # nobody is listening
    assert state(before, id).next_try is not None
    database.close()

    receiver = Receiver()
    receiver.start()
    database = SqliteDatabase(tmp_path / "server.db")
    after = Store(database)
    with database.transaction() as transaction:
        transaction.exec_driver_sql("UPDATE deliveries SET url = ?", (receiver.url,))
    try:
        deliver(after, settled(after, id))
    finally:
        receiver.stop()
    assert len(receiver.got) == 1 and state(after, id).attempts == 2
    assert json.loads(receiver.got[0][1])["request_id"] == id
    database.close()


def test_ten_retries_with_growing_delays_within_two_hours() -> None:
    assert len(RETRY_AFTER) == 10 and sorted(RETRY_AFTER) == list(RETRY_AFTER)
    assert sum(RETRY_AFTER) + 11 * (webhooks.ATTEMPT_SECONDS + webhooks.POLL_SECONDS) <= 2 * 3600


def test_the_next_try_is_noted_with_its_delay(store: Store, receiver: Receiver) -> None:
    receiver.answers = [503]
    id = finished(store, receiver.url)
    for number in range(3):
        start = time.time()
        deliver(store, lambda wanted=number + 1: state(store, id).attempts == wanted)  # type: ignore[misc]
        next_try = state(store, id).next_try
        assert next_try is not None
        assert start + RETRY_AFTER[number] <= next_try <= time.time() + RETRY_AFTER[number]
        with store._database.transaction() as transaction:
            transaction.exec_driver_sql("UPDATE deliveries SET next_try = 0")


@pytest.mark.usefixtures("quick_retries")
def test_after_eleven_attempts_it_is_given_up(store: Store, receiver: Receiver) -> None:
    receiver.answers = [500]
    id = finished(store, receiver.url)
    deliver(store, settled(store, id))
    assert len(receiver.got) == state(store, id).attempts == 11
    assert state(store, id).outcome == "answered with status 500"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_a_redirect_is_neither_followed_nor_tried_again(store: Store, receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    id = finished(store, receiver.url)
    deliver(store, settled(store, id))
    assert len(receiver.got) == 1
    assert state(store, id).outcome == f"answered with status {status}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"])
def test_private_targets_are_refused_unless_allowed(store: Store, receiver: Receiver, host: str) -> None:
    id = finished(store, f"http://{host}:{receiver.port}/hook")
    deliver(store, settled(store, id), allow_private=False)
    assert receiver.got == []
    assert "not on the public internet" in (state(store, id).outcome or "")


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/x", "http://", "http://127.0.0.1:99999/", "http://[::1/"])
def test_an_url_that_cannot_be_one_is_given_up(store: Store, url: str) -> None:
    id = finished(store, url)
    deliver(store, settled(store, id))
    assert state(store, id).outcome


@pytest.mark.usefixtures("quick_retries")
def test_the_time_of_an_attempt_is_limited_as_a_whole(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when something comes all the time."""
    monkeypatch.setattr(webhooks, "ATTEMPT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as drip:
        stop = threading.Event()

        def serve() -> None:
            connection, _ = drip.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not stop.wait(0.02):
                    connection.sendall(b"x")

        thread = threading.Thread(target=serve)
        thread.start()
        slow = finished(store, f"http://127.0.0.1:{drip.getsockname()[1]}/")
        quick = finished(store, receiver.url)
        try:
            deliver(store, lambda: state(store, slow).attempts > 0 and settled(store, quick)())
        finally:
            stop.set()
            thread.join()
    assert state(store, slow).outcome == "no answer within 0.5 s"
    assert state(store, quick).outcome == "answered with status 200"


def test_a_slow_receiver_holds_up_nobody_and_is_not_asked_twice(store: Store, receiver: Receiver) -> None:
    slow, others = Receiver(), threading.Event()
    slow.start()
    slow.hold = others.wait
    try:
        first = finished(store, slow.url)

        def until() -> bool:
            if len(slow.got) == 1 and len(receiver.got) == 0 and len(store.requests()) == 1:
                finished(store, receiver.url)
            if len(receiver.got) == 1:
                others.set()
            return all(state(store, one.id).next_try is None for one in store.requests())

        deliver(store, until)
    finally:
        others.set()
        slow.stop()
    assert slow.times[0] < receiver.times[0]
    assert (len(slow.got), len(receiver.got)) == (1, 1) and state(store, first).attempts == 1


def test_a_result_that_cannot_be_told_stops_no_other(store: Store, receiver: Receiver) -> None:
    bad, good = finished(store, receiver.url), finished(store, receiver.url)

    def payload(request: Request) -> Any:
        return float("nan") if request.id == bad else {}

    deliver(store, lambda: state(store, bad).attempts == 1 and settled(store, good)(), payload=payload)
    assert [json.loads(body)["request_id"] for _, body in receiver.got] == [good]
    assert state(store, bad).next_try is not None


class Flaky(Deliveries):
    """Fails a few times, as on a full disk."""

    failures = 3

    def record_attempt(self, *arguments: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError(Path("server.db"), "the disk is full")
        super().record_attempt(*arguments)


def test_a_database_that_fails_for_a_while_neither_stops_nor_repeats_deliveries(
    store: Store, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    id, flaky = finished(store, receiver.url), Flaky(store._database)
    deliver(store, settled(store, id), deliveries=flaky)
    assert flaky.failures == 0
    assert (len(receiver.got), state(store, id).attempts) == (1, 1)
    assert len([line for line in caplog.records if line.levelname == "ERROR"]) == 1, "said once, not at every try"


@pytest.mark.usefixtures("quick_retries")
def test_no_log_line_holds_the_secrets_of_an_url(
    store: Store, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    receiver.answers = [500, 302]
    ids = [finished(store, receiver.url), finished(store, "http://user:SECRET@127.1:1/?token=SECRET")]
    deliver(store, settled(store, *ids))
    assert "abandoned" in caplog.text
    assert "SECRET" not in caplog.text
    assert not any("SECRET" in str(state(store, id).outcome) for id in ids)
