"""The page in a real browser: Debian's Chromium, where it is installed. Tests are skipped with a sentence where not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from rest_fixtures import assistant_here, dataset

from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import CONFIG, LORA, PREVIEW, Preview, RunArtifacts
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.results import finished

__all__ = ["assistant_here", "dataset"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]


@pytest.fixture(scope="module")  # its event loop must not outlive the module: other tests run their own
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium), so the page is not tested")
    expect.set_options(timeout=30_000)  # on a machine with other things to do
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context_of(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Contexts by their options. A new one loads and compiles every module of the page again, so tests share them."""
    contexts: dict[str, BrowserContext] = {}

    def find(**options: Any) -> BrowserContext:
        if (name := repr(options)) not in contexts:
            made = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", **options)
            made.set_default_timeout(30_000)
            contexts[name] = made
        return contexts[name]

    yield find
    for context in contexts.values():
        context.close()


@pytest.fixture
def opened(context_of: Callable[..., BrowserContext]) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server, logged in with a key; at the end the console must have no error."""
    errors: list[str] = []
    pages = []

    def open_page(address: str, key: str, route: str = "", script: str = "", **options: Any) -> Page:
        context = context_of(**options)
        context.clear_cookies()
        login = context.request.post(f"{address}/api/session", data={"key": key})
        assert login.ok
        page = context.new_page()
        pages.append(page)
        page.goto(f"{address}/studio/icon.svg")
        page.evaluate("localStorage.clear()")  # of the test before
        page.add_init_script(script)
        page.on(
            "console",
            lambda one: errors.append(f"{one.location}: {one.text}") if one.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda one: errors.append(str(one)))
        hosts = address.split("//")[1]
        page.on(
            "request",
            lambda one: None if hosts in one.url or one.url[:5] in ("blob:", "data:") else errors.append(one.url),
        )
        page.goto(f"{address}/#/{route}")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not errors


def sound(hertz: float, seconds: float = 1.0, amplitude: float = 0.3) -> Waveform:
    time = np.arange(round(seconds * 48_000)) / 48_000
    return Waveform((amplitude * np.sin(2 * np.pi * hertz * time))[None].astype(np.float32), 48_000)


@pytest.fixture
def finished_run(live, client: httpx.Client) -> Callable[..., str]:
    """A run that a worker would have finished: previews of two prompts at three steps, metrics, a log, its files."""

    def make(name: str = "Rain") -> str:
        made = client.post("/api/datasets", json={"name": "Tones", "mode": "t2a"}).json()
        folder = live.settings.folder / "scratch"
        folder.mkdir(exist_ok=True)
        for index, hertz in enumerate((300, 500)):
            write_wav(folder / "tone.wav", sound(hertz))
            content = (folder / "tone.wav").read_bytes()
            client.put(f"/api/datasets/{made['id']}/files/tone{index}.wav", content=content)
        captions = {"tone0": "soft rain", "tone1": "hard rain"}
        client.put(f"/api/datasets/{made['id']}/captions", json={"captions": captions})
        prompts = ["soft rain on a roof", "hard rain on a car"]
        body = {"training_data_url": "http://x/y.zip", "validation": [{"prompt": prompt} for prompt in prompts]}
        options = {"name": name, "base": "tiny", "dataset": {"id": made["id"], "name": "Tones", "revision": 3}}
        new = NewRequest(endpoint="t2a", mode="t2a", key_id=live.key.split(":")[0], body=body, options=options)
        request = live.store.add_request(new)
        run = live.settings.run_folder(request.id)
        run.mkdir(parents=True)
        artifacts = RunArtifacts(run)
        for step in (0, 500, 1000):
            for number, prompt in enumerate(prompts, start=1):
                shown = sound(200 * number + step / 10, seconds=4.0, amplitude=0.1 + step / 2000)
                write_sound = lambda path, shown=shown: write_wav(path, shown)  # noqa: E731
                preview = Preview(step, number, prompt, 42, "lora" if step else "base")
                artifacts.put_preview(preview, write_sound, lambda path: path.write_bytes(b""))
        for artifact in (LORA, CONFIG, PREVIEW):
            (run / artifact).write_bytes(b"content")
        rows = [(step, {"loss": 1 / (1 + step / 200)}) for step in range(10, 1010, 10)]
        for step in (0, 500, 1000):
            by_sigma = {"0.25": 0.5 - step / 5000, "0.75": 0.9 - step / 9000}
            rows.append((step, {"train_eval_loss": 0.7 - step / 5000, "train_eval_loss_by_sigma": by_sigma}))
        live.store.record(
            request.id, metrics=rows, logs=[(1.0, "INFO", "training"), (2.0, "WARN", "one clip is quiet")]
        )
        live.store.claim()
        live.store.finish(request.id, finished(request, 1000, run, live.storage, 61.0))
        return request.id

    return make


@pytest.fixture
def axe() -> Callable[[Page], None]:
    """Fails with what axe-core finds on a page."""
    import axe_playwright_python

    script = Path(axe_playwright_python.__file__).parent / "axe.min.js"

    def check(page: Page) -> None:
        if not page.evaluate("!!window.axe"):
            # The page's own policy forbids scripts that are not its own, so this one comes by the debugger.
            page.evaluate(script.read_text("utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        faults = [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]
        assert not faults

    return check
