"""The page with the server's own workers: from dropped files to a LoRA that is heard, in every family of modes.

Also a server that is killed meanwhile, and the page below a path of a reverse proxy.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from playwright.sync_api import expect
from rest_support import packed
from studio_way import LONG, TAP, TITLES, files_of, generate, listen, take, train, until
from subpath_proxy import below

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("whole-way")]
STEPS = 100


def free_port():
    """One that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def house(serve, tmp_path_factory):
    """A server with `tiny`."""
    with serve(tmp_path_factory.mktemp("house"), "--base", "tiny") as served:
        yield served


@pytest.mark.parametrize("mode", TITLES)
def test_from_a_dropped_folder_to_a_lora_that_is_heard(mode, house, opened, tmp_path, axe):
    page = opened(house.address, house.banner_value("key:"), script=TAP)
    train(page, mode, tmp_path, STEPS)
    axe(page)
    listen(page, STEPS)
    generate(page, mode, 4)
    axe(page)
    take(page, mode)


def test_a_server_that_is_killed_and_started_again_keeps_the_run(browser, tmp_path, shallow_base):
    """The page stays open. The console has the errors of the lost connection, and no others."""
    port = free_port()
    folder, address = tmp_path / "server", f"http://127.0.0.1:{port}"
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(folder), "--port", str(port)]
    command += ["--device", "cpu", "--base", shallow_base]

    def start(banner):
        with banner.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=variables)
        while not re.search(r"^keys?: .*\n", banner.read_text(), re.MULTILINE):
            assert process.poll() is None
            time.sleep(0.1)
        return process

    server = start(tmp_path / "first.txt")
    try:
        key = re.search(r"^key: +(\S+)", (tmp_path / "first.txt").read_text(), re.MULTILINE)[1]
        http = httpx.Client(base_url=address, headers={"Authorization": f"Key {key}"}, trust_env=False)
        dataset = http.post("/api/datasets", json={"name": "Tones", "mode": "t2a"}).json()["id"]
        http.put(f"/api/datasets/{dataset}/files/tones.zip", content=packed(files_of("t2a", tmp_path)))
        fields = {"audio_duration_seconds": 0.5, "number_of_steps": 600, "rank": 8}
        run = {"mode": "t2a", "dataset": dataset, "name": "Tones", "fields": fields}
        id = http.post("/api/runs", json=run).json()["id"]
        context = browser.new_context()
        assert context.request.post(f"{address}/api/session", data={"key": key}).ok
        page = context.new_page()
        errors = []
        page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda one: errors.append(str(one)))
        page.goto(f"{address}/#/runs/{id}")
        expect(page.get_by_text(re.compile("Training: [1-9]"))).to_be_visible(timeout=LONG)
        server.send_signal(signal.SIGKILL)
        server.wait()
        expect(page.get_by_text("The connection is lost.")).to_be_visible()
        server = start(tmp_path / "second.txt")
        expect(page.get_by_text("The connection is lost.")).to_have_count(0, timeout=60_000)
        expect(page.locator(".badge", has_text="finished")).to_be_visible(timeout=LONG)
        expect(page.get_by_role("log").get_by_text("resumed")).to_be_visible()
        lines = page.get_by_role("log").locator("div").all_inner_texts()
        assert len(lines) == len(http.get(f"/api/runs/{id}/log").json()["log"]), "each line once"
        assert all("Failed to load resource" in error or "ERR_" in error for error in errors), errors
        context.close()
    finally:
        server.terminate()
        server.wait(60)


def test_below_a_path_of_a_reverse_proxy(serve, browser, axe, tmp_path, shallow_base):
    with below("/sound/studio") as proxy:
        port = free_port()
        proxy.target = f"http://127.0.0.1:{port}"
        options = ["--base", shallow_base, "--public-url", proxy.address.rstrip("/"), "--port", str(port)]
        with serve(tmp_path, *options) as served:
            context = browser.new_context()
            page = context.new_page()
            wrong = []
            page.on("console", lambda one: wrong.append(one.text) if one.type in ("error", "warning") else None)
            page.on("pageerror", lambda one: wrong.append(str(one)))
            page.on(
                "request",
                lambda one: None if one.url.startswith((proxy.address, "blob:", "data:")) else wrong.append(one.url),
            )
            page.goto(proxy.address)
            page.get_by_label("Key").fill(served.banner_value("key:"))
            page.get_by_role("button", name="Log in").click()
            train(page, "t2a", tmp_path, STEPS)
            page.get_by_role("link", name="Listen").first.click()
            picture = page.get_by_role("region", name="a tone at 250 Hz").locator("img").first
            expect(picture).to_be_visible()
            until(page, "[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
            page.get_by_role("button", name="Play: a tone at 250 Hz").click()
            expect(page.locator(".sound.active").first).to_be_visible()
            page.get_by_role("link", name="Take it").click()
            with page.expect_download() as download:
                page.get_by_role("link", name="Download").first.click()
            assert b"lora_A" in download.value.path().read_bytes()[:100_000]
            (cookie,) = [one for one in context.cookies() if "session" in one["name"]]
            assert cookie["path"] == "/sound/studio/"
            page.reload()
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            axe(page)
            context.close()
            assert not wrong
