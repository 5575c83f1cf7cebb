"""Each view of the page, with a server whose workers the tests play."""

from __future__ import annotations

import re

import pytest
import torch
from playwright.sync_api import expect
from rest_support import packed, tone

from sonolora.planning.sweep_plan import SweepPlan
from sonolora.runs.artifacts import SWEEP, RunArtifacts
from sonolora.runs.sweep.standings import Standings

pytestmark = pytest.mark.xdist_group("studio")

CLIPS = {"rain.wav": tone(seconds=1.0), "rain.txt": b"soft rain", "wind.wav": tone(300, seconds=1.0)}


@pytest.fixture
def page(live, opened):
    return opened(live.address, live.key)


def drop(page, files):
    page.set_input_files("input[aria-label='Files or a zip']", files)


@pytest.mark.usefixtures("assistant_here")
def test_files_become_clips_whose_captions_are_edited(page, client):
    drop(page, [{"name": "clips.zip", "mimeType": "application/zip", "buffer": packed(CLIPS)}])
    expect(page.get_by_role("article")).to_have_count(2)
    caption = page.get_by_label("Caption of wind")
    caption.fill("strong wind in trees")
    caption.blur()
    page.get_by_label("Seconds of a training clip").fill("0.5")
    expect(page.get_by_text("2 clips will be trained on.")).to_be_visible()
    expect(page.get_by_text("trimmed from 1.000 s to 0.500 s").first).to_be_visible()
    page.get_by_role("button", name="Find and replace").click()
    page.get_by_label("Find", exact=True).fill("wind")
    page.get_by_label("Replace by").fill("storm")
    page.get_by_role("button", name="Change 1 caption").click()
    expect(page.get_by_label("Caption of wind")).to_have_value("strong storm in trees")
    page.get_by_label("Search names and captions").fill("storm")
    expect(page.get_by_role("article")).to_have_count(1)
    id = page.url.rsplit("/", 1)[1]
    captions = {clip["name"]: clip["caption"] for clip in client.get(f"/api/datasets/{id}").json()["clips"]}
    assert captions == {"rain": "soft rain", "wind": "strong storm in trees"}


@pytest.mark.usefixtures("assistant_here")
def test_what_is_given_of_a_short_clip_is_set_beside_the_check(live, opened, dataset):
    page = opened(live.address, live.key, f"datasets/{dataset(CLIPS, 'audio-extend-suffix')['id']}")
    page.get_by_label("Seconds of it that are given").fill("0.2")
    page.get_by_label("Seconds of a training clip").fill("0.5")
    expect(page.get_by_text("2 clips will be trained on.")).to_be_visible()
    page.get_by_role("link", name="Train on this").click()
    expect(page.get_by_label("Conditioning seconds")).to_have_value("0.2")


def masks(client, id):
    return client.get(f"/api/datasets/{id}").json()["clips"][0]["mask"]


@pytest.mark.usefixtures("assistant_here")
def test_a_mask_is_drawn_by_mouse_and_by_keyboard(live, opened, client, dataset, wait_until):
    id = dataset({"rain.wav": tone(seconds=1.0)}, "audio-inpaint")["id"]
    page = opened(live.address, live.key, f"datasets/{id}")
    page.get_by_role("button", name="Mark what is regenerated in rain").click()
    area = page.get_by_test_id("mask")
    expect(page.get_by_test_id("ranges")).to_have_text("Nothing is marked.")
    expect(area).to_have_attribute("aria-valuemax", "1")
    box = area.bounding_box()

    def drag(start, end):
        page.mouse.move(box["x"] + start * box["width"], box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + end * box["width"], box["y"] + 60, steps=4)
        page.mouse.up()

    drag(0.205, 0.395)  # which snaps to 40 ms
    expect(page.get_by_test_id("ranges")).to_have_text("0.20–0.40 s")
    drag(0.40, 0.555)  # the edge is moved
    expect(page.get_by_test_id("ranges")).to_have_text("0.20–0.56 s")
    area.focus()
    page.keyboard.press("Home")
    page.keyboard.down("Shift")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.up("Shift")
    expect(page.get_by_test_id("ranges")).to_have_text("0.00–0.12 s, 0.20–0.56 s")
    wait_until(lambda: masks(client, id) == [[0, 0.12], [0.2, 0.56]])
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Delete")
    expect(page.get_by_test_id("ranges")).to_have_text("0.00–0.12 s")


@pytest.mark.slow
@pytest.mark.usefixtures("assistant_here")
def test_a_recording_is_sliced(live, opened, dataset):
    recording = tone(seconds=32.0, rate=8000, gaps=((9.0, 10.0), (20.0, 21.0)))
    id = dataset({"long.wav": recording})["id"]
    page = opened(live.address, live.key, f"datasets/{id}")
    page.get_by_role("button", name="Slice").click()
    page.get_by_label("At most, seconds").fill("20")
    page.get_by_label("At most, seconds").blur()
    page.get_by_role("button", name="Leave out clip 3").click()
    page.get_by_role("button", name="Make 2 clips").click()
    expect(page.get_by_role("article")).to_have_count(2)


def test_the_form_shows_what_has_an_effect_and_is_kept(live, opened, client, dataset):
    id = dataset(CLIPS)["id"]
    page = opened(live.address, live.key, f"start/{id}")
    page.route("**/api/estimate", lambda route: route.fulfill(json=ESTIMATE))
    steps = page.get_by_label("Number of steps")
    expect(steps).to_have_value("2000")
    expect(page.get_by_label("Resolution")).to_have_count(0)
    expect(page.get_by_label("Prompt 1")).to_have_value("soft rain")
    steps.fill("5")
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()
    steps.fill("150")
    page.get_by_label("Prompt 1").fill("a storm")
    expect(page.get_by_test_id("estimate")).to_contain_text("2 min")
    page.get_by_text("What it costs here").click()
    page.get_by_label("Watts").fill("3600")
    page.get_by_label("Dollars a kWh").fill("1")
    expect(page.get_by_test_id("estimate")).to_contain_text("$0.11power, here")  # of 110 s
    page.reload()
    expect(page.get_by_label("Number of steps")).to_have_value("150")
    expect(page.get_by_label("Prompt 1")).to_have_value("a storm")
    page.get_by_label("Name").fill("Storms")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("heading", name="Storms")).to_be_visible()
    (run,) = client.get("/api/runs?state=queued").json()["runs"]
    body = live.store.body(run["id"])
    assert (body["number_of_steps"], body["validation"]) == (150, [{"prompt": "a storm"}])
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused.")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("In the queue: next.")).to_be_visible()
    live.store.claim()
    progress = {"phase": "reading the text encoder", "step": 3, "steps": 48}
    live.store.record(
        run["id"], progress=progress, logs=[(1.0, "INFO", "a line of the log")], metrics=[(10, {"loss": 1})]
    )
    live.changed(run["id"])
    expect(page.get_by_text("Reading the text encoder: 3 of 48")).to_be_visible()
    expect(page.get_by_text("a line of the log")).to_be_visible()


def test_several_learning_rates_make_a_sweep(live, opened, client, dataset):
    page = opened(live.address, live.key, f"start/{dataset(CLIPS)['id']}")
    page.route("**/api/estimate", lambda route: route.fulfill(json=ESTIMATE))
    page.get_by_label("Try several").check()
    page.get_by_label("Learning rate", exact=True).fill("1e-4, x")
    expect(page.get_by_text("numbers with commas")).to_be_visible()
    page.get_by_label("Learning rate", exact=True).fill("1e-4, 5e-4")
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()  # nothing is held out
    page.get_by_label("Held out").fill("1")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_text("rank 32, 0.0001 · rank 32, 0.0005")).to_be_visible()
    (run,) = client.get("/api/runs?kind=sweep&state=queued").json()["runs"]
    plan = SweepPlan.of(live.store.request(run["id"]).options["sweep"])
    standings = Standings(plan, [0], torch.tensor([[1.0, 1.0]]))
    standings.add(100, torch.tensor([[[0.9, 0.9]], [[0.8, 0.8]]]))
    live.settings.run_folder(run["id"]).mkdir(parents=True)
    RunArtifacts(live.settings.run_folder(run["id"])).put_json(SWEEP, standings.as_json(2000))
    live.store.record(run["id"], metrics=[(100, {"held_out_change": {"rank 32, learning rate 0.0001": -0.1}})])
    live.changed(run["id"])
    first = page.get_by_role("region", name="Members of the sweep").locator("tbody tr").first
    expect(first).to_contain_text(re.compile(r"320.0005100.*−20.0 %.*best"))


ESTIMATE = {
    "preparation_seconds": 4.0, "training_seconds": 100.0, "preview_seconds": 6.0,
    "hosted_price": 0.33, "available": 8e9, "peak": 2.5e8, "fits": True, "error": None,
}  # fmt: skip


def playing(page):
    return page.evaluate("import('./studio/player.js').then((player) => player.state())")


def test_versions_switch_in_the_middle_of_a_sound(live, opened, finished_run):
    page = opened(live.address, live.key, f"runs/{finished_run()}/listen")
    row = page.get_by_role("region", name="soft rain on a roof")
    expect(row.locator("img")).to_have_count(4)  # base, two steps, real
    row.get_by_role("button", name="Play: soft rain on a roof").click()
    expect(row.locator(".sound.active")).to_be_visible()
    before = playing(page)
    page.keyboard.press("3")
    after = playing(page)
    assert (before["playing"]["key"], after["playing"]["key"]) == ("step-0", "step-1000")
    assert 0 <= after["position"] - before["position"] < 0.5 and after["context"] == "running"
    page.keyboard.press("4")
    assert playing(page)["playing"]["key"] == "real"
    page.locator("body").press(" ")
    assert playing(page)["playing"] is None
    page.get_by_label("Match loudness").uncheck()
    page.reload()
    expect(page.get_by_label("Match loudness")).not_to_be_checked()


SWITCH = """async () => {
  const { startVoices, matchedGains, CROSSFADE } = await import("./studio/voices.js");
  const rate = 48000, context = new OfflineAudioContext(1, rate, rate);
  const buffer = (hertz, amplitude) => {
    const made = context.createBuffer(1, rate, rate), samples = made.getChannelData(0);
    const turn = 2 * Math.PI * hertz / rate;
    for (let index = 0; index < rate; index++) samples[index] = amplitude * Math.sin(turn * index);
    return made;
  };
  const [quiet, loud] = [buffer(440, 0.1), buffer(1000, 0.4)];
  const gains = matchedGains([-23, -23 + 20 * Math.log10(4)]);
  const voices = startVoices(context, context.destination, [
    { key: "a", buffer: quiet, gain: gains[0] }, { key: "b", buffer: loud, gain: gains[1] }], "a", 0.25, 0);
  voices.switchTo("b", 0.5);
  const heard = (await context.startRendering()).getChannelData(0);
  const a = quiet.getChannelData(0), b = loud.getChannelData(0), offset = rate / 4;
  const worst = (first, last, expected) => {
    let most = 0;
    for (let index = first; index < last; index++)
      most = Math.max(most, Math.abs(heard[index] - expected(index + offset)));
    return most;
  };
  const at = rate / 2, fade = Math.round(CROSSFADE * rate);
  return {
    before: worst(0, at, (index) => gains[0] * a[index]),
    after: worst(at + fade + 2, rate - offset, (index) => gains[1] * b[index]),
    during: worst(at, at + fade, (index) => {
      const share = (index - offset - at) / fade;
      return (1 - share) * gains[0] * a[index] + share * gains[1] * b[index];
    }),
    gains,
  };
}"""


def test_a_switch_keeps_its_place_without_a_gap_or_a_jump(page):
    found = page.evaluate(SWITCH)
    assert found["before"] < 1e-6 and found["after"] < 1e-6, "each sound at its own place in time"
    assert found["during"] < 2e-3, "a straight crossfade of 5 ms, no gap"
    assert found["gains"] == pytest.approx([1.0, 0.25])


def test_the_blind_test_counts_and_says_what_chance_would_do(live, opened, finished_run):
    page = opened(live.address, live.key, f"runs/{finished_run()}/test")
    page.get_by_label("Trials").select_option("5")
    page.get_by_role("button", name="Begin").click()
    for trial in range(5):
        expect(page.get_by_role("heading", name=f"Trial {trial + 1} of 5")).to_be_visible()
        page.keyboard.press("x")
        page.get_by_role("button", name="X is A").click()
    expect(page.get_by_test_id("p-value")).to_contain_text("p = ")
    right = int(page.get_by_role("heading", name="of 5 right").inner_text().split()[0])
    chance = {0: "1.000", 1: "0.969", 2: "0.813", 3: "0.500", 4: "0.188", 5: "0.031"}
    expect(page.get_by_test_id("p-value")).to_contain_text(chance[right])


def test_a_run_is_taken(live, opened, finished_run):
    page = opened(live.address, live.key, f"runs/{finished_run()}/take")
    expect(page.get_by_label("Model card")).to_have_value(re.compile(r"library_name[\s\S]*soft rain on a roof"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.path().read_bytes() == b"content"


@pytest.mark.slow
def test_two_runs_side_by_side(live, opened, finished_run):
    first, second = finished_run("One"), finished_run("Two")
    page = opened(live.address, live.key, "runs")
    page.get_by_label("Compare One").first.check()
    page.get_by_label("Compare Two").first.check()
    page.get_by_role("link", name="Listen to two side by side").click()
    expect(page.get_by_role("heading", name="One and Two")).to_be_visible()
    expect(page.get_by_role("region", name="hard rain on a car").locator("button.sound")).to_have_count(3)
    assert first != second


@pytest.mark.slow
def test_the_queue_is_ordered_by_keyboard_and_a_key_is_made(live, opened, client, dataset):
    id = dataset(CLIPS)["id"]
    for name in ("One", "Two", "Three"):
        client.post("/api/runs", json={"mode": "t2a", "dataset": id, "name": name})
    page = opened(live.address, live.key, "queue")
    names = page.locator(".queue li b")
    expect(names).to_have_text(["One", "Two", "Three"])
    page.get_by_role("button", name="Move Three").press("ArrowUp")
    expect(names).to_have_text(["One", "Three", "Two"])
    page.locator(".queue li").nth(2).drag_to(page.locator(".queue li").nth(0))
    expect(names).to_have_text(["Two", "One", "Three"])
    page.goto(f"{live.address}/#/keys")
    page.get_by_label("Make a key for").fill("Studio B")
    page.get_by_role("button", name="Make a key").click()
    secret = page.get_by_role("status").locator(".mono").inner_text()
    assert live.keys.check(secret).name == "Studio B"


@pytest.mark.slow
def test_a_revoked_key_leads_to_the_login(live, opened):
    page = opened(live.address, live.key)
    expect(page.get_by_role("heading", name="What should it learn?")).to_be_visible()
    live.keys.revoke(live.key.split(":")[0])
    page.reload()
    page.get_by_label("Key").fill(live.keys.add("other")[1])
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="What should it learn?")).to_be_visible()


@pytest.mark.usefixtures("assistant_here")
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing(live, opened, axe, dataset, finished_run, scheme):
    run = finished_run()
    id = dataset(CLIPS)["id"]
    inpaint = dataset({"rain.wav": tone(seconds=1.0), "rain.txt": b"x"}, "audio-inpaint")["id"]
    page = opened(live.address, live.key, color_scheme=scheme)
    page.route("**/api/estimate", lambda route: route.fulfill(json=ESTIMATE))
    for route in (
        "",
        f"datasets/{id}",
        f"start/{id}",
        "runs",
        f"runs/{run}",
        f"runs/{run}/listen",
        f"runs/{run}/test",
        f"runs/{run}/take",
        "queue",
        "keys",
    ):
        page.goto(f"{live.address}/#/{route}")
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        page.wait_for_timeout(150)
        axe(page)
    page.goto(f"{live.address}/#/datasets/{inpaint}")
    page.get_by_role("button", name="Mark what is regenerated in rain").click()
    expect(page.get_by_test_id("ranges")).to_be_visible()
    axe(page)
