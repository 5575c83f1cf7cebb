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
import numpy as np
import pytest
from playwright.sync_api import expect
from rest_support import packed, tone
from subpath_proxy import below

from sonolora.media.audio import Waveform
from sonolora.media.write_video import write_video

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("whole-way")]
LONG = 900_000  # milliseconds for what trains, on a busy machine
SOUND = {"Number of steps": "100", "Rank": "8", "Learning rate": "0.01"}
VIDEO = {**SOUND, "Number of frames": "9", "Resolution": "low", "Aspect ratio": "16:9"}
MORE_VIDEO = {"Validation number of frames": "9", "Validation resolution": "low", "Validation aspect ratio": "16:9"}

# Measures what goes to the loudspeakers.
TAP = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode && to.context instanceof AudioContext) {
    window.tapped ??= new AnalyserNode(to.context, { fftSize: 4096 });
    connect.call(this, window.tapped);
  }
  return connect.call(this, to, ...rest);
};
window.level = () => {
  const samples = new Float32Array(4096);
  window.tapped?.getFloatTimeDomainData(samples);
  return Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
};
"""


def film(path, pitch):
    """Ten frames whose picture changes half way, with a tone."""
    pictures = np.zeros((10, 64, 64, 3), np.uint8)
    pictures[5:, 16:48, 16:48] = 255
    time = np.arange(round(48_000 * 10 / 24)) / 48_000
    sound = 0.4 * np.sin(2 * np.pi * pitch * time)
    write_video(path, pictures, 24, Waveform(np.stack([sound, sound]).astype(np.float32), 48_000))
    return path.read_bytes()


def files_of(mode, folder):
    """Two samples with captions."""
    found = {}
    for pitch in (250, 400):
        found[f"c{pitch}.txt"] = f"a tone at {pitch} Hz".encode()
        if mode == "v2a":
            found[f"c{pitch}.mp4"] = film(folder / f"c{pitch}.mp4", pitch)
        elif mode == "a2a":
            found[f"c{pitch}_start.wav"], found[f"c{pitch}_end.wav"] = tone(2 * pitch), tone(pitch)
        else:
            found[f"c{pitch}.wav"] = tone(pitch)
    return found


def free_port():
    """One that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def drop(page, mode, files, folder=None):
    """Chooses the mode and gives the files: in a new folder, or as a zip."""
    page.get_by_role("radio", name=re.compile(f"^{mode}")).check(force=True)
    if folder is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        page.set_input_files("input[aria-label='A folder']", folder)
        expect(page.get_by_role("article")).to_have_count(2)
        return
    zipped = {"name": "tones.zip", "mimeType": "application/zip", "buffer": packed(files)}
    page.set_input_files("input[aria-label='Files or a zip']", [zipped])
    expect(page.get_by_role("article")).to_have_count(2)


def fill(page, fields):
    for label, value in fields.items():
        field = page.get_by_label(label, exact=True)
        if field.evaluate("one => one.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def until(page, holds, seconds=30.0):
    """Waits for an expression. Playwright's own way to do so is against the page's policy."""
    end = time.monotonic() + seconds
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        page.wait_for_timeout(50)


def heard(page):
    """Waits until something sounds; the loudest of half a second."""
    until(page, "level() > 1e-4")
    levels = []
    for _ in range(10):
        levels.append(page.evaluate("level()"))
        page.wait_for_timeout(50)
    return max(levels)


@pytest.fixture(scope="module")
def house(serve, tmp_path_factory):
    """A server with `tiny`."""
    with serve(tmp_path_factory.mktemp("house"), "--base", "tiny") as served:
        yield served


MODES = {
    "t2a": "Text to audio",
    "a2a": "Audio to audio",
    "v2a": "Video to audio",
    "audio-inpaint": "Inpainting",
    "audio-extend-prefix": "Extend forward",
}


@pytest.mark.parametrize("mode", MODES)
def test_from_dropped_files_to_a_lora_that_is_heard(mode, house, opened, tmp_path, axe):
    page = opened(house.address, house.banner_value("key:"))
    page.add_init_script(TAP)
    page.reload()
    drop(page, MODES[mode], files_of(mode, tmp_path), tmp_path / "clips" if mode == "t2a" else None)
    if mode == "audio-inpaint":
        for clip in ("c250", "c400"):
            page.get_by_role("button", name=f"Mark what is regenerated in {clip}").click()
            area = page.get_by_test_id("mask")
            expect(area).to_have_attribute("aria-valuemax", "0.6")  # it has been read
            area.focus()
            page.keyboard.press("Home")
            page.keyboard.down("Shift")
            for _ in range(5):
                page.keyboard.press("ArrowRight")
            page.keyboard.up("Shift")
            expect(page.get_by_test_id("ranges")).to_have_text("0.00–0.20 s")
            page.wait_for_timeout(500)  # until it is saved
            page.get_by_role("dialog").get_by_role("button", name="Close").click()
    if mode in ("t2a", "a2a", "audio-inpaint"):  # the others need more fields to fit clips as short as these
        page.get_by_label("Seconds of a training clip").fill("0.5")
        expect(page.get_by_text("2 clips will be trained on.")).to_be_visible(timeout=120_000)
    page.get_by_role("link", name="Train on this").click()
    fill(page, VIDEO if mode == "v2a" else SOUND)
    if mode == "v2a":
        page.get_by_text("More fields of the request").click()
        fill(page, MORE_VIDEO)
    if mode == "audio-extend-prefix":
        fill(page, {"Audio duration seconds": "0.5", "Conditioning seconds": "0.2"})
    page.get_by_role("button", name="Remove").last.click()  # one preview is enough
    page.get_by_label("Name", exact=True).fill(f"Tones by {mode}")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("heading", name=f"Tones by {mode}")).to_be_visible()
    expect(page.locator(".badge", has_text="finished")).to_be_visible(timeout=LONG)
    axe(page)

    page.get_by_role("link", name="Listen").first.click()
    row = page.get_by_role("region", name="a tone at 250 Hz").first
    expect(row.locator("img").first).to_be_visible()
    page.get_by_label("Loop").check()
    row.get_by_role("button", name="Play: a tone at 250 Hz").click()
    assert heard(page) > 1e-4
    labels = row.locator("button.sound").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    last = next(index for index, label in reversed(list(enumerate(labels))) if "100" in label)
    page.keyboard.press(str(last + 1))
    state = page.evaluate("import('./studio/player.js').then((player) => player.state())")
    assert state["playing"]["key"] == "step-100"
    assert heard(page) > 1e-4

    page.get_by_label("Sampling steps").fill("4")
    page.get_by_role("button", name="Generate").click()
    made = page.get_by_role("region", name="a tone at 250 Hz").last
    expect(made.locator("button.sound", has_text="strength 1")).to_be_visible(timeout=LONG)
    expect(made.locator("button.sound", has_text="base")).to_be_visible(timeout=LONG)
    made.locator("button.sound", has_text="strength 1").click()
    assert heard(page) > 1e-4
    if mode == "v2a":
        film = made.locator("video")
        expect(film).to_be_visible()
        assert film.evaluate("one => one.readyState") >= 1
    axe(page)
    page.get_by_role("link", name="Take it").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert b'"mode":"%s"' % mode.encode() in download.value.path().read_bytes()[:100_000].replace(b" ", b"")


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
            drop(page, MODES["t2a"], files_of("t2a", tmp_path))
            page.get_by_label("Seconds of a training clip").fill("0.5")
            expect(page.get_by_text("2 clips will be trained on.")).to_be_visible(timeout=LONG)
            page.get_by_role("link", name="Train on this").click()
            fill(page, SOUND)
            page.get_by_role("button", name="Start training").click()
            expect(page.locator(".badge", has_text="finished")).to_be_visible(timeout=LONG)
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
