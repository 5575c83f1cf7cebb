"""Screenshots of every view of the page, light and dark, wide and narrow, with a real run on `tiny`.

    python tools/studio/screenshots.py [--out docs/studio] [--server FOLDER]

In: nothing, or the folder of an earlier call, whose datasets and run are used again. Out: PNGs. Needs Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from sonolora.runs.demo import TRIGGER, make_dataset

FIELDS = {"audio_duration_seconds": 2.0, "number_of_steps": 400, "rank": 16, "learning_rate": 0.002}
PROMPTS = ("a high plasma gun fires three times", "a low plasma gun fires three times")
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
COLOURS = 160
FORM = '{"fields": {"audio_duration_seconds": 2, "number_of_steps": 400}, "settings": {}}'


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    """A server in the folder; its address, and a key."""
    key = subprocess.run(
        [sys.executable, "-m", "sonolora", "keys", "add", "Mira", "--role", "operator", "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    banner = folder / "banner.txt"
    with banner.open("w") as out:
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(folder), "--port", "0", "--device", "cpu"]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
    while not (found := re.search(r"serves at (\S+)", banner.read_text())):
        time.sleep(0.2)
    return process, found[1], re.search(r"[0-9a-f]{16}:[0-9a-f]{64}", key)[0]


def fill(client: httpx.Client) -> None:
    """Datasets, a finished run, and a few requests that wait; nothing where they are there already."""
    if client.get("/api/runs").json()["runs"]:
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "plasma.zip"
        make_dataset(path)
        content = path.read_bytes()
    ids = {}
    for name, mode in (("Plasma gun", "t2a"), ("Plasma gun, gaps", "audio-inpaint")):
        ids[mode] = client.post("/api/datasets", json={"name": name, "mode": mode}).json()["id"]
        client.put(f"/api/datasets/{ids[mode]}/files/plasma.zip", content=content)
        client.patch(f"/api/datasets/{ids[mode]}", json={"trigger_phrase": TRIGGER})
    for clip in range(1, 17):
        path = f"/api/datasets/{ids['audio-inpaint']}/masks/plasma{clip:02d}"
        client.put(path, json={"time_ranges": [[0.2, 0.64]]})
    for id in ids.values():
        client.post(f"/api/datasets/{id}/check", json={"fields": {"audio_duration_seconds": 2.0}})
    run = {
        "mode": "t2a",
        "dataset": ids["t2a"],
        "name": "Plasma gun, rank 16",
        "fields": {**FIELDS, "validation": [{"prompt": f"{TRIGGER} {prompt}"} for prompt in PROMPTS]},
        "settings": {"preview_every": 200},
    }
    first = client.post("/api/runs", json=run).json()["id"]
    while client.get(f"/api/runs/{first}").json()["state"] not in ("finished", "failed"):
        time.sleep(2)
    prompts = [f"{TRIGGER} a plasma gun fires four times"]
    sounds = {"mode": "t2a", "run": first, "prompts": prompts, "scales": [0, 0.5, 1]}
    made = client.post("/api/generations", json={**sounds, "seeds": [7]}).json()["id"]
    while client.get(f"/api/runs/{made}").json()["state"] not in ("finished", "failed"):
        time.sleep(1)
    for name in ("Plasma gun, rank 64", "Plasma gun, long", "Plasma gun, slow"):
        client.post("/api/runs", json={**run, "name": name, "fields": {**run["fields"], "number_of_steps": 20000}})


def draw(client: httpx.Client) -> None:
    """Have the server measure and draw every sound, so that none is missing in a picture."""
    for one in client.get("/api/datasets").json()["datasets"]:
        for clip in client.get(f"/api/datasets/{one['id']}").json()["clips"]:
            client.get(f"/api/datasets/{one['id']}/files/{clip['sounds'][0]['file']}/shape")


def views(client: httpx.Client) -> dict[str, str]:
    """The addresses of the views by the name of their picture."""
    datasets = {one["mode"]: one["id"] for one in client.get("/api/datasets").json()["datasets"]}
    runs = client.get("/api/runs").json()["runs"]
    run = next(one["id"] for one in runs if one["state"] == "finished")
    return {
        "home": "",
        "data": f"datasets/{datasets['t2a']}",
        "mask": f"datasets/{datasets['audio-inpaint']}",
        "start": f"start/{datasets['t2a']}",
        "run": f"runs/{run}",
        "listen": f"runs/{run}/listen",
        "test": f"runs/{run}/test",
        "take": f"runs/{run}/take",
        "queue": "queue",
        "keys": "keys",
    }


def shoot(
    browser: Browser,
    address: str,
    key: str,
    routes: dict[str, str],
    datasets: list[str],
    out: Path,
    name: str,
    **options: object,
) -> None:
    context = browser.new_context(**options)
    context.request.post(f"{address}/api/session", data={"key": key})
    # The form that somebody has begun to fill in, for every dataset.
    forms = "".join(f"localStorage.setItem('sonolora.form.{id}', '{FORM}');" for id in datasets)
    context.add_init_script(forms)
    page = context.new_page()
    for view, route in routes.items():
        page.goto(f"{address}/#/{route}")
        settle(page, view)
        path = out / f"{view}-{name}.png"
        page.screenshot(path=path)
        Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(path, f"{path.stat().st_size / 1e3:.0f} kB", flush=True)
    context.close()


def settle(page: Page, view: str) -> None:
    """Wait until the view shows what it has to show."""
    page.locator("h1").first.wait_for()
    if view == "mask":
        page.get_by_role("button", name="Mark what is regenerated in plasma03").click()
        page.get_by_test_id("ranges").wait_for()
    if view == "start":
        page.get_by_test_id("estimate").wait_for(timeout=180_000)
    if view == "listen":
        page.locator(".voice img").first.wait_for(timeout=180_000)
        page.get_by_label("Real clip beside preview 1").wait_for()
        while not page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)"):
            page.wait_for_timeout(200)
    page.wait_for_load_state("networkidle") if view in ("data", "mask", "home", "keys") else page.wait_for_timeout(4000)
    page.wait_for_timeout(1500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/studio"))
    parser.add_argument("--server", type=Path, help="a folder to keep the server's data in")
    arguments = parser.parse_args()
    folder = arguments.server or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is not installed (Debian: apt install chromium)")
    process, address, key = start(folder)
    try:
        with httpx.Client(
            base_url=address, headers={"Authorization": f"Key {key}"}, timeout=600, trust_env=False
        ) as client:
            fill(client)
            draw(client)
            routes = views(client)
            datasets = [one["id"] for one in client.get("/api/datasets").json()["datasets"]]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            forms = {"light": WIDE, "dark": WIDE, "narrow": NARROW}
            for name, viewport in forms.items():
                scheme = "dark" if name == "dark" else "light"
                options = {"viewport": viewport, "color_scheme": scheme}
                shoot(browser, address, key, routes, datasets, arguments.out, name, **options)
            browser.close()
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    main()
