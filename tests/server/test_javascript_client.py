"""The published JavaScript client against the server, by its proxy protocol and by middleware.

In: node, and npm's registry or the folder of an installed client in SONOLORA_NODE_MODULES; without them the tests are
skipped. One process for each goes through all calls (`javascript_tour.mjs`); the tests check what they returned.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.xdist_group("javascript-client")
CLIENT = "@fal-ai/client@1.10.1"
TOUR = Path(__file__).parent / "javascript_tour.mjs"
# The published recipe, with the modules of node.
VERIFIER = """
const crypto = require("node:crypto");
const { headers, body, keys } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const [id, user, time, signature] = ["Request-Id", "User-Id", "Timestamp", "Signature"].map(
  (name) => headers[`X-Fal-Webhook-${name}`]);
const digest = crypto.createHash("sha256").update(Buffer.from(body, "base64")).digest("hex");
const message = Buffer.from([id, user, time, digest].join("\\n"), "utf8");
console.log(JSON.stringify(keys.map((key) =>
  crypto.verify(null, message, crypto.createPublicKey({ key, format: "jwk" }), Buffer.from(signature, "hex")))));
"""


@pytest.fixture(scope="module")
def folder(request, clips, tmp_path_factory):
    """The clips with the client beside them, which pytest's cache keeps, where there is one."""
    if not shutil.which("node"):
        pytest.skip("needs node")
    if not (modules := os.environ.get("SONOLORA_NODE_MODULES")):
        cache = getattr(request.config, "cache", None)  # absent without the plugin
        prefix = tmp_path_factory.mktemp("client") if cache is None else cache.mkdir("fal-client")
        modules = prefix / "node_modules"
        if not (modules / "@fal-ai" / "client" / "package.json").exists():
            if not shutil.which("npm"):
                pytest.skip("needs npm, or the folder of an installed client in SONOLORA_NODE_MODULES")
            options = ["--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=20000", "--prefix", str(prefix)]
            done = subprocess.run(["npm", "install", *options, CLIENT], capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"npm could not install {CLIENT}: {done.stderr[-300:]}")
    (clips / "node_modules").symlink_to(modules)
    shutil.copy(TOUR, clips)
    return clips


@pytest.fixture(scope="module")
def finished(served, folder, run_here):
    """The lines that the server prints for node, with shorter clips, to their end."""
    lines = served.lines["JavaScript"]
    (folder / "train.mjs").write_text(
        lines.replace("number_of_steps: 100", "number_of_steps: 100, audio_duration_seconds: 0.5")
    )
    output = run_here(["node", "train.mjs"], folder).splitlines()
    newest = served.newest()
    return SimpleNamespace(id=newest, output=output, result=served.result(newest).json())


@pytest.fixture(scope="module", params=["proxyUrl", "requestMiddleware"])
def tour(request, served, folder, receiver, finished, run_here):
    """What each call of the tour returned."""
    arguments = [served.address, served.banner_value("key:"), request.param, receiver.url, finished.id]
    return SimpleNamespace(**json.loads(run_here(["node", TOUR.name, *arguments], folder)))


def test_the_example_trains(served, finished):
    *updates, url = finished.output
    assert url == finished.result["lora_file"]["url"]
    assert updates[0] == "started" and updates[-1].startswith("trained and written")
    assert len(updates) == len(set(updates)), "each line once"
    served.download(finished.result["lora_file"])


def test_streamed_logs_are_those_of_a_poll(tour):
    last = [line["message"] for line in tour.polled["logs"]]
    assert tour.over["status"] == tour.polled["status"] == "COMPLETED"
    assert len(last) == len({(line["message"], line["timestamp"]) for line in tour.polled["logs"]}) > 3
    assert tour.streamed[-1] == ["COMPLETED", last], "the client adds up the lines of all events"
    assert "IN_PROGRESS" in [status for status, _ in tour.streamed]


def test_cancelling(tour):
    cancelled = {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}
    assert (tour.behind["status"], tour.behind["queue_position"]) == ("IN_QUEUE", 0)
    assert (tour.early["status"], tour.early["body"]) == (400, {"detail": "Request is still in progress"})
    for error in (tour.cancelledInTheQueue, tour.cancelledWhileItRan):
        assert (error["name"], error["status"], error["body"]) == ("ApiError", 499, cancelled)
    assert tour.cancelledWhileItRan["requestId"] == tour.submitted["request_id"]
    assert (tour.cancelledAgain["status"], tour.cancelledAgain["body"]) == (400, {"status": "ALREADY_COMPLETED"})


def test_invalid_input_is_a_validation_error(tour):
    for error, field in (
        (tour.refusedAtSubmit, "rank"),
        (tour.polling, "training_data_url"),
        (tour.streaming, "training_data_url"),
        (tour.refusedByRun, "training_data_url"),
    ):
        assert (error["name"], error["status"]) == ("ValidationError", 422)
        assert [item["loc"] for item in error["fieldErrors"]] == [["body", field]]
    for updates in (tour.polling["updates"], tour.streaming["updates"]):
        status, log = updates[-1]
        assert status == "COMPLETED"
        assert len(log) == len(set(log)) > 1
    assert tour.elsewhere["status"] == tour.unknown["status"] == 404


def test_a_finished_request_by_its_id(tour, finished):
    assert tour.status["status"] == "COMPLETED"
    assert tour.status["logs"][-1]["message"].startswith("trained and written")
    assert tour.result == {"data": finished.result, "requestId": finished.id}


def test_uploads(tour, served):
    file, large = (served.http.get(tour.uploads[name]).content for name in ("file", "large"))
    assert file == b"a few bytes"
    assert tour.uploads["file"].endswith("/few%20words.txt")
    assert (
        hashlib.sha256(large).digest()
        == hashlib.sha256(b"".join(bytes([n]) * (1 << 20) for n in range(91)) + b"end").digest()
    )


def test_a_webhook_is_signed(tour, served, receiver):
    headers, body = receiver.wait(tour.submitted["request_id"])
    assert json.loads(body)["status"] == "ERROR"
    keys = served.http.get("/.well-known/jwks.json").json()["keys"]

    def signed(body):
        delivery = json.dumps({"headers": headers, "body": base64.b64encode(body).decode(), "keys": keys})
        done = subprocess.run(["node", "-e", VERIFIER], input=delivery, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert signed(body) == [True]
    assert signed(body + b" ") == [False]


@pytest.mark.slow
def test_the_printed_lines_train_unchanged(served, folder, run_here):
    (folder / "unchanged.mjs").write_text(served.lines["JavaScript"])
    *_, url = run_here(["node", "unchanged.mjs"], folder).splitlines()
    assert url == served.result(served.newest()).json()["lora_file"]["url"]
