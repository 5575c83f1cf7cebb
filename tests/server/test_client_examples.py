"""The examples that the server prints and the docs contain, pasted unchanged, with the published clients."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from sonolora.server import client_examples as examples
from sonolora.server.banner import banner
from sonolora.server.jobs.records import Result
from sonolora.server.settings import ServerSettings

LORA = {"content_type": "x/y", "file_name": "lora.safetensors", "file_size": 6}
LINES = ["one", "two"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    return tmp_path


@pytest.fixture(autouse=True)
def lora(live, folder):
    """Ends every request after two log lines; the path of the file that it returns."""
    (folder / "made").write_bytes(b"a LoRA")
    file = live.storage.adopt(folder / "made", "lora.safetensors", "x/y", request_id="r", expires=None)
    done = Result(status=200, body={"lora_file": {"url": file.address, **LORA}, "audio": None}, billable_units=100)
    over = threading.Event()

    def work():
        while not over.wait(0.02):
            if claimed := live.store.claim():
                for line in LINES:
                    live.store.add_logs(claimed.id, [(0.0, "INFO", line)])
                live.changed(claimed.id)
                live.store.finish(claimed.id, done)
                live.changed(claimed.id)

    thread = threading.Thread(target=work)
    thread.start()
    yield file.address
    over.set()
    thread.join(20)


@pytest.fixture
def run(live, folder, run_here):
    """Runs a command in the folder of the clips; afterwards a request with them is in the store. Returns the lines."""

    def run(*command, **variables):
        lines = run_here(list(command), folder, **variables).splitlines()
        url = live.store.body(live.store.requests(limit=1)[0].id)["training_data_url"]
        if not url.startswith("data:"):
            assert live.storage.local(url).read_bytes() == (folder / "clips.zip").read_bytes()
        return lines

    return run


def test_python(live, run, lora):
    assert run(sys.executable, "-c", examples.python(live.address, live.key)) == [*LINES, live.address + lora]


def test_python_through_the_proxy(live, run, lora, documented, exported):
    bundle = live.settings.folder / "tls" / "bundle.pem"
    variables = exported(examples.proxy_environment(f"http://127.0.0.1:{live.proxy_port}", bundle, live.key))
    _, lines, program = documented["Python, an unchanged program"]
    assert exported(lines).keys() == variables.keys()
    # A browser, which knows of no proxy, can download it, too.
    assert run(sys.executable, "-c", program, **variables) == [*LINES, live.address + lora]


def test_python_over_https(live, run, lora, documented, exported):
    _, lines, program, _ = documented["Python, over https"]
    host, bundle = f"localhost:{live.settings.tls_port}", live.settings.folder / "tls" / "bundle.pem"
    for default, own in (("localhost:8443", host), ("YOUR_KEY", live.key)):
        assert default in lines
        lines = lines.replace(default, own)
    variables = {**exported(lines), "SSL_CERT_FILE": str(bundle)}
    assert run(sys.executable, "-c", program, **variables)[-1] == f"https://{host}{lora}"


def test_curl(live, run, folder, lora):
    url, result = run("bash", "-e", "-c", examples.curl(live.address, live.key))
    assert url.startswith(f"{live.address}/fal-ai/ltx23-trainer-v2/requests/")
    assert json.loads(result)["lora_file"]["url"] == live.address + lora
    assert (folder / "lora.safetensors").read_bytes() == b"a LoRA"


def test_javascript(live, run, folder, lora):
    modules = os.environ.get("SONOLORA_NODE_MODULES")
    if not modules or not shutil.which("node"):
        pytest.skip("needs node, and the folder of an installed @fal-ai/client in SONOLORA_NODE_MODULES")
    (folder / "node_modules").symlink_to(modules)
    (folder / "train.mjs").write_text(examples.javascript(live.address, live.key))
    assert run("node", "train.mjs") == [*LINES, live.address + lora]


def test_the_banner_has_them():
    lines = examples.proxy_environment("http://127.0.0.1:2", Path("/x/tls/bundle.pem"), "k:s")
    assert lines in banner(ServerSettings(Path("/x"), tls_port=1, proxy_port=2), "k:s", 1, with_examples=True)
    short = banner(ServerSettings(Path("/x")), "k:s", 1)
    assert len(short.splitlines()) < 12 and "--examples" in short
    assert short.splitlines()[-2].startswith("key:    k:s")  # the last, where the eye is
    plain = banner(ServerSettings(Path("/x")), None, 2, with_examples=True)
    for text in (examples.python, examples.javascript, examples.curl):
        assert text("http://127.0.0.1:8000", "YOUR_KEY") in plain
    assert "keys:   2" in plain
    assert "its LoRAs do not fit LTX-2.3" in plain
    assert "LTX-2.3" not in banner(ServerSettings(Path("/x"), base="ltx-2.3"), None, 2)


def test_the_docs_have_them(documented):
    address, key = "http://127.0.0.1:8000", "YOUR_KEY"
    assert examples.curl(address, key) in documented["curl, and any HTTP client"]
    assert examples.javascript(address, key) in documented["JavaScript"]
    assert examples.python(address, key) in documented["Python, over plain http"]
    lines = examples.proxy_environment("http://127.0.0.1:8001", Path("BUNDLE"), key)
    _, documented_lines, _ = documented["Python, an unchanged program"]
    assert lines == documented_lines.replace("~/.local/share/sonolora/server/tls/bundle.pem", "BUNDLE")
