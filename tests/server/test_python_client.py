"""The published Python client against the server, by proxy, https and http.

The client reads its hosts when it is imported, so each of these is a process of its own, which goes through all calls
(`python_tour.py`); the tests check what they returned.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sonolora.server import client_examples as examples

pytestmark = pytest.mark.xdist_group("python-client")
TOUR = (Path(__file__).parent / "python_tour.py").read_text("utf-8")
LARGE = (101 << 20) + 7  # bytes: more than the client sends as one piece


@pytest.fixture(scope="module")
def access(served, documented, exported):
    """The variables, and the first lines of a program, for each way to the server; and the documented program."""

    def access(way):
        key, bundle = served.banner_value("key:"), str(served.folder / "tls" / "bundle.pem")
        if way == "http":
            program = examples.python(served.address, key)
            return {}, program.partition("\n\nresult = ")[0] + "\n", program
        if way == "proxy":
            title, own = "Python, an unchanged program", {"HTTPS_PROXY": served.banner_value("proxy:")}
        else:
            host = served.banner_value("https:").removeprefix("https://")
            title = "Python, over https"
            own = {"FAL_QUEUE_RUN_HOST": f"{host}/queue", "FAL_RUN_HOST": f"{host}/run"}
        _, lines, program, *_ = documented[title]
        own |= {"SSL_CERT_FILE": bundle, "FAL_KEY": key}
        assert exported(lines).keys() == own.keys()
        return own, "", program

    return access


@pytest.fixture(scope="module")
def finished(served, access, clips, run_here):
    """The lines that the server prints for Python and the documented program, with shorter clips, to their end."""
    _, _, program = access("proxy")
    program = program.replace('"number_of_steps": 100', '"number_of_steps": 100, "audio_duration_seconds": 0.5')
    output = run_here([sys.executable, "-c", program], clips, **access("proxy")[0]).splitlines()
    newest = served.newest()
    return SimpleNamespace(id=newest, output=output, result=served.result(newest).json())


@pytest.fixture(scope="module", params=["proxy", "https", "http"])
def tour(request, access, clips, receiver, finished, run_here):
    """What each call of the tour returned."""
    variables, first_lines, _ = access(request.param)
    upload = "encode_file" if request.param == "https" else "upload_file"
    large = clips / "large.bin"
    if request.param == "proxy":
        with large.open("wb") as file:
            file.writelines(bytes([n % 251]) * min(1 << 20, LARGE - (n << 20)) for n in range((LARGE >> 20) + 1))
    opening, future, rest = TOUR.partition("from __future__ import annotations\n")
    program = opening + future + first_lines + rest
    output = run_here([sys.executable, "-c", program, receiver.url, finished.id, upload], clips, **variables)
    large.unlink(missing_ok=True)
    results = {name.replace(" ", "_"): value for name, value in json.loads(output).items()}
    return SimpleNamespace(way=request.param, **results)


def test_the_example_trains(served, finished):
    *updates, url = finished.output
    assert url == finished.result["lora_file"]["url"]
    assert updates[0] == "started" and updates[-1].startswith("trained and written")
    log = served.http.get(f"/fal-ai/ltx23-trainer-v2/requests/{finished.id}/status?logs=1").json()["logs"]
    assert updates == [line["message"] for line in log], "each line once"
    served.download(finished.result["lora_file"])


def test_the_banner_leads_to_the_proxy(served, access, exported):
    assert exported(served.lines["Python"]) == access("proxy")[0]


@pytest.mark.slow
def test_the_documented_programs_train_the_same_lora(served, access, clips, run_here):
    loras = []
    for way in ("proxy", "http", "https"):
        variables, _, program = access(way)
        run_here([sys.executable, "-c", program], clips, **variables)
        loras.append(served.download(served.result(served.newest()).json()["lora_file"]))
    assert loras[0] == loras[1] == loras[2]


def test_the_lines_for_curl(served, clips, run_here):
    """They wait for the end, here that of a request that is cancelled; `test_serve` has a successful one."""

    def cancel(id):
        assert served.http.put(f"/fal-ai/ltx23-trainer-v2/requests/{id}/cancel").status_code == 202

    def cancel_the_next():
        while (id := served.newest()) == ahead:
            time.sleep(0.2)
        cancel(id)

    # While a long one runs, the request of the lines cannot end before it is cancelled.
    data = served.upload((clips / "clips.zip").read_bytes())
    ahead = served.submit(
        "t2a", {"training_data_url": data, "rank": 8, "number_of_steps": 20_000, "audio_duration_seconds": 0.5}
    )
    with ThreadPoolExecutor() as beside:
        cancelling = beside.submit(cancel_the_next)
        url, result = run_here(["bash", "-c", f"{served.lines['curl']}\ntrue"], clips).splitlines()
        cancelling.result()
    cancel(ahead)
    assert url == f"{served.address}/fal-ai/ltx23-trainer-v2/requests/{served.newest()}"
    assert json.loads(result)["error_type"] == "client_cancelled"


def test_a_request_is_followed_from_the_queue_to_its_run(tour):
    names = [name for name, _ in tour.events]
    assert names == sorted(names, reverse=True) and set(names) <= {"Queued", "InProgress"}
    logs = [values["logs"] for name, values in tour.events if name == "InProgress"]
    for earlier, later in pairwise(logs):
        assert later[: len(earlier)] == earlier, "a poll gives the whole log"
    assert "started" in [line["message"] for line in logs[-1]]
    assert {tuple(line) for line in logs[-1]} == {("message", "level", "source", "timestamp")}
    assert tour.without_logs == ["InProgress", {"logs": None}]


def test_the_queue_goes_by_priority(tour):
    assert tour.places == [["Queued", {"position": 0}], ["Queued", {"position": 1}]]


def test_cancelling(tour):
    cancelled = {"code": 499, "message": "Request cancelled by the client.", "type": "client_cancelled"}
    assert tour.cancelled_in_the_queue == [cancelled, cancelled]
    assert tour.cancelled_while_it_ran == cancelled
    assert tour.seconds_to_stop < 20
    name, status = tour.after_it
    assert (name, status["error_type"]) == ("Completed", "client_cancelled")
    assert len(status["logs"]) > 3
    assert tour.cancelled_again["code"] == 400
    assert "ALREADY_COMPLETED" in str(tour.cancelled_again["message"])


def test_time_limits(tour):
    assert tour.started_too_late == {"code": 504, "message": "Request timed out", "type": "startup_timeout"}
    assert tour.out_of_patience == [2, True]
    # The client sends its own limit to the server as well, which may be the first to act.
    assert (tour.given_up["code"], tour.given_up["type"]) in ((499, "client_cancelled"), (504, "startup_timeout"))


def test_errors_are_the_same_at_once_and_in_the_result(tour):
    for error, field in (
        (tour.refused_at_submit, "rank"),
        (tour.refused_at_result, "training_data_url"),
        (tour.refused_while_it_is_waited_for, "training_data_url"),
    ):
        assert error["code"] == 422
        assert [item["loc"] for item in error["message"]] == [["body", field]], error
        assert {"loc", "msg", "type"} <= set(error["message"][0])
    assert tour.updates[-1][0] == "Completed"
    assert tour.updates[-1][1]["error"]
    assert tour.streamed[-1] == {"detail": tour.refused_while_it_is_waited_for["message"]}
    assert tour.unknown["code"] == tour.elsewhere["code"] == 404


def test_a_finished_request_by_its_id(tour, finished):
    name, status = tour.status
    assert name == "Completed"
    assert status["error"] is None
    assert status["metrics"]["inference_time"] > 1
    assert status["logs"][-1]["message"].startswith("trained and written")

    # Only the beginning of the URLs depends on how the server is reached.
    def paths(result):
        return json.loads(re.sub(r"https?://[^/\"]+/", "/", json.dumps(result)))

    assert paths(tour.result) == paths(finished.result) == paths(tour.asynchronous[0])
    assert tour.asynchronous[1][0] == "Completed"


def test_uploads(tour, served, clips):
    if tour.way == "https":
        pytest.skip("the client has no variable for the host of uploads")
    content = {name: served.http.get(url).content for name, url in tour.uploads.items()}
    large = content.pop("large", None)
    few = b"a few bytes"
    clips_zip = (clips / "clips.zip").read_bytes()
    assert content == {"file": clips_zip, "asynchronous": clips_zip, "bytes": few, "older": few}
    assert tour.uploads["bytes"].endswith("/few.txt")
    if tour.way == "proxy":
        expected = hashlib.sha256()
        for n in range((LARGE >> 20) + 1):
            expected.update(bytes([n % 251]) * min(1 << 20, LARGE - (n << 20)))
        assert len(large) == LARGE
        assert hashlib.sha256(large).digest() == expected.digest()


def test_a_webhook_is_signed(tour, served, receiver, tmp_path):
    headers, body = receiver.wait(tour.running)
    notice = json.loads(body)
    assert notice["request_id"] == notice["gateway_request_id"] == tour.running
    assert (notice["status"], notice["payload"]["error_type"]) == ("ERROR", "client_cancelled")
    assert abs(time.time() - int(headers["X-Fal-Webhook-Timestamp"])) < 300
    keys = served.http.get("/.well-known/jwks.json").json()["keys"]
    assert [signed(headers, body, key, tmp_path) for key in keys] == [True]
    assert [signed(headers, body + b" ", key, tmp_path) for key in keys] == [False]


def signed(headers, body, key, folder):
    """The published recipe, with the program `openssl`."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    names = [f"X-Fal-Webhook-{name}" for name in ("Request-Id", "User-Id", "Timestamp")]
    message = "\n".join([*(headers[name] for name in names), hashlib.sha256(body).hexdigest()])
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"]))
    (folder / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "message").write_text(message)
    (folder / "signature").write_bytes(bytes.fromhex(headers["X-Fal-Webhook-Signature"]))
    command = "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in message -sigfile signature"
    return subprocess.run(command.split(), cwd=folder, capture_output=True).returncode == 0
