"""The page with 500 clips and 50 runs: how long each view takes until it shows what it is for.

    python bench/studio_load.py [--clips 500] [--runs 50] [--rounds 6]

Starts a server of its own whose store has the runs already, sends the clips by the REST face, and goes from view to
view in Chromium. A time counts from the click until the content is there; pictures that are drawn for the first time
come later and do not count. Needs Chromium. Prints a table.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import wave
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import Page, expect, sync_playwright

from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import CONFIG, LORA, PREVIEW, Preview, RunArtifacts
from sonolora.server.database.open_database import open_database
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.results import finished
from sonolora.server.jobs.store import Store
from sonolora.server.settings import ServerSettings

STEPS, PREVIEW_STEPS = 1000, (0, 250, 500, 750, 1000)
PROMPTS = "soft rain on a roof", "hard rain on a car"


def tone(hertz: float, seconds: float = 1.0, rate: int = 16_000) -> Waveform:
    moments = np.arange(round(seconds * rate)) / rate
    return Waveform((0.3 * np.sin(2 * np.pi * hertz * moments))[None].astype(np.float32), rate)


def clips(count: int) -> bytes:
    """A zip of sounds of a second with captions."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(count):
            content = io.BytesIO()
            with wave.open(content, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(16_000)
                file.writeframes((tone(200 + number).samples[0] * 32_767).astype("<i2").tobytes())
            archive.writestr(f"clip{number:03d}.wav", content.getvalue())
            archive.writestr(f"clip{number:03d}.txt", f"a tone, number {number:03d}")
    return packed.getvalue()


def make_runs(settings: ServerSettings, count: int) -> str:
    """Finished runs with previews, metrics and a log; returns a key."""
    with closing(open_database(settings.database_address)) as database:
        store = Store(database)
        storage = Storage(settings.folder / "files", database, settings.max_upload_bytes)
        key_id, secret = Keys(database).add("bench")
        for number in range(count):
            body = {"training_data_url": "http://x/y.zip", "validation": [{"prompt": prompt} for prompt in PROMPTS]}
            options = {"name": f"Run {number:02d}", "base": "tiny"}
            id = store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id=key_id, body=body, options=options)).id
            folder = settings.run_folder(id)
            folder.mkdir(parents=True)
            artifacts = RunArtifacts(folder)
            for step in PREVIEW_STEPS:
                for index, prompt in enumerate(PROMPTS, start=1):
                    sound = tone(200 * index + step / 10)
                    preview = Preview(step, index, prompt, 42, "lora" if step else "base")
                    artifacts.put_preview(
                        preview, lambda path, sound=sound: write_wav(path, sound), lambda path: path.write_bytes(b"")
                    )
            for name in (LORA, CONFIG, PREVIEW):
                (folder / name).write_bytes(b"content")
            rows = [(step, {"loss": 1 / (1 + step / 200)}) for step in range(1, STEPS + 1)]
            store.record(id, metrics=rows, logs=[(float(line), "INFO", f"line {line}") for line in range(200)])
            request = store.claim()
            assert request is not None
            store.finish(id, finished(request, STEPS, folder, storage, 60.0))
        return secret


def measure(client: httpx.Client, page: Page, address: str, dataset: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round."""
    run = client.get("/api/runs?limit=1").json()["runs"][0]["id"]

    def timed(act: Callable[[], object]) -> list[float]:
        times = []
        for _ in range(rounds):
            page.goto(f"{address}/#/keys")
            expect(page.get_by_label("Make a key for")).to_be_visible()
            began = time.monotonic()
            act()
            times.append(1000 * (time.monotonic() - began))
        return times

    def view(route: str, shown: Callable[[], object]) -> list[float]:
        def act() -> None:
            page.evaluate(f"location.hash = '#/{route}'")
            shown()

        return timed(act)

    def search() -> list[float]:
        page.goto(f"{address}/#/datasets/{dataset}")
        box, found = page.get_by_label("Search names and captions"), page.get_by_role("article")
        expect(found.first).to_be_visible()
        times = []
        for number in range(rounds):
            began = time.monotonic()
            box.fill(f"number {number * 99:03d}")
            expect(found).to_have_count(1)
            times.append(1000 * (time.monotonic() - began))
        return times

    def call(path: str) -> list[float]:
        times = []
        for _ in range(rounds):
            began = time.monotonic()
            client.get(path).raise_for_status()
            times.append(1000 * (time.monotonic() - began))
        return times

    row = page.get_by_role("region", name=PROMPTS[1])
    return {
        "clips, until the first are there": view(
            f"datasets/{dataset}", lambda: expect(page.get_by_role("article").first).to_be_visible()
        ),
        "one clip found by its caption": search(),
        "the form": view(f"start/{dataset}", lambda: expect(page.get_by_label("Number of steps")).to_be_visible()),
        "runs": view("runs", lambda: expect(page.get_by_text("Run 00", exact=True)).to_be_visible()),
        "a run of 1,000 steps": view(f"runs/{run}", lambda: expect(page.get_by_text("line 199")).to_be_visible()),
        "its sounds": view(f"runs/{run}/listen", lambda: expect(row.locator("button.sound").nth(4)).to_be_visible()),
        "the queue": view("queue", lambda: expect(page.get_by_role("heading", name="Waiting")).to_be_visible()),
        "call: the dataset": call(f"/api/datasets/{dataset}"),
        "call: 50 runs": call("/api/runs?limit=50"),
        "call: a run": call(f"/api/runs/{run}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    expect.set_options(timeout=120_000)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder:
        settings = ServerSettings(Path(folder) / "server")
        settings.folder.mkdir()
        secret, banner = make_runs(settings, arguments.runs), Path(folder) / "banner.txt"
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(settings.folder), "--port", "0"]
        with banner.open("w") as out:
            server = subprocess.Popen([*command, "--device", "cpu"], stdout=out, stderr=subprocess.DEVNULL)
        try:
            while not (found := re.search(r"serves at (\S+)", banner.read_text())):
                time.sleep(0.1)
            head = {"Authorization": f"Key {secret}"}
            with httpx.Client(base_url=found[1], headers=head, timeout=600, trust_env=False) as client:
                dataset = client.post("/api/datasets", json={"name": "Tones", "mode": "t2a"}).json()["id"]
                began = time.monotonic()
                client.put(
                    f"/api/datasets/{dataset}/files/clips.zip", content=clips(arguments.clips)
                ).raise_for_status()
                print(f"{arguments.clips} clips taken in {time.monotonic() - began:.1f} s")
                with sync_playwright() as playwright:
                    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    context.request.post(f"{found[1]}/api/session", data={"key": secret})
                    page = context.new_page()
                    table = measure(client, page, found[1], dataset, arguments.rounds)
                    memory = page.evaluate("performance.memory.usedJSHeapSize")
                    browser.close()
        finally:
            server.terminate()
            server.wait()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; the page holds {memory / 1e6:.0f} MB")
    print("\n| | ms | the first time |\n|---|---|---|")
    for name, times in table.items():
        print(f"| {name} | {statistics.median(times[1:]):.0f} | {times[0]:.0f} |")


if __name__ == "__main__":
    main()
