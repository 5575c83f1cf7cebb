"""From a dropped folder to a LoRA that is heard, as a user goes it in the page of any server."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import expect
from rest_support import tone

from sonolora.media.audio import Waveform
from sonolora.media.write_video import write_video

LONG = 900_000  # milliseconds for what trains, on a busy machine
SOUND = {"Rank": "8", "Learning rate": "0.01"}
VIDEO = {**SOUND, "Resolution": "low", "Aspect ratio": "16:9"}
MORE_VIDEO = {"Validation number of frames": "9", "Validation resolution": "low", "Validation aspect ratio": "16:9"}
TITLES = {
    "t2a": "Text to audio",
    "a2a": "Audio to audio",
    "v2a": "Video to audio",
    "audio-inpaint": "Inpainting",
    "audio-extend-prefix": "Extend forward",
    "audio-extend-suffix": "Extend backward",
}

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


def drop_folder(page, folder: Path, files):
    """Drags a new folder of files over the page and drops it, as the browser gets it from the desktop."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    box = page.locator(".drop").bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 20}
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    desktop = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        desktop.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
        if kind == "dragOver":
            expect(page.locator(".drop.over")).to_be_visible()
    desktop.detach()


def choose(page, mode):
    page.get_by_role("radio", name=re.compile(f"^{TITLES[mode]}")).check(force=True)


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
    """Waits until something sounds, and stops it."""
    until(page, "level() > 1e-4")
    page.locator("body").press(" ")


def mark(page, clip):
    """The first fifth of a second, by keyboard."""
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
    page.get_by_role("dialog").get_by_role("button", name="Close").click()


def train(page, mode, folder, steps):
    """From the page of datasets to a finished run."""
    choose(page, mode)
    drop_folder(page, folder / "Two tones", files_of(mode, folder))
    expect(page.get_by_role("heading", name="Two tones")).to_be_visible()
    expect(page.get_by_role("article")).to_have_count(2)
    if mode == "audio-inpaint":
        for clip in ("c250", "c400"):
            mark(page, clip)
    if "extend" in mode:
        page.get_by_label("Seconds of it that are given").fill("0.2")
    if mode == "v2a":
        page.get_by_label("Frames of a training clip").fill("9")
    else:
        page.get_by_label("Seconds of a training clip").fill("0.5")
    expect(page.get_by_text("2 clips will be trained on.")).to_be_visible(timeout=LONG)
    page.get_by_role("link", name="Train on this").click()
    fill(page, {"Number of steps": str(steps), **(VIDEO if mode == "v2a" else SOUND)})
    if mode == "v2a":
        page.get_by_text("More fields of the request").click()
        fill(page, MORE_VIDEO)
    page.get_by_role("button", name="Remove").last.click()  # one preview is enough
    page.get_by_label("Name", exact=True).fill(f"Tones by {mode}")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("heading", name=f"Tones by {mode}")).to_be_visible()
    expect(page.locator(".badge", has_text="finished")).to_be_visible(timeout=LONG)


def listen(page, steps):
    """The preview of the last step is heard, switched to in the middle of the base's."""
    page.get_by_role("link", name="Listen").first.click()
    row = page.get_by_role("region", name="a tone at 250 Hz").first
    expect(row.locator("img").first).to_be_visible()
    page.get_by_label("Loop").check()
    row.get_by_role("button", name="Play: a tone at 250 Hz").click()
    until(page, "level() > 1e-4")
    labels = row.locator("button.sound").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    last = next(index for index, label in reversed(list(enumerate(labels))) if f"step {steps}" in label)
    page.keyboard.press(str(last + 1))
    state = page.evaluate("import('./studio/player.js').then((player) => player.state())")
    assert state["playing"]["key"] == f"step-{steps}"
    heard(page)


def generate(page, mode, steps):
    """A new sound with the LoRA is heard."""
    page.get_by_label("Sampling steps").fill(str(steps))
    page.get_by_role("button", name="Generate").click()
    made = page.get_by_role("region", name="a tone at 250 Hz").last
    expect(made.locator("button.sound", has_text="strength 1")).to_be_visible(timeout=LONG)
    expect(made.locator("button.sound", has_text="base")).to_be_visible(timeout=LONG)
    made.locator("button.sound", has_text="strength 1").click()
    heard(page)
    if mode not in ("t2a", "v2a"):
        expect(made.locator("button.sound", has_text="before" if mode == "a2a" else "source")).to_be_visible()
    if mode.startswith("audio-"):
        expect(made.locator(".span").first).to_be_attached()
    if mode == "v2a":
        picture = made.locator("video")
        expect(picture).to_be_visible()
        assert picture.evaluate("one => one.readyState") >= 1


def take(page, mode):
    """The LoRA is downloaded."""
    page.get_by_role("link", name="Take it").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert b'"mode":"%s"' % mode.encode() in download.value.path().read_bytes()[:100_000].replace(b" ", b"")
