"""Sounds over the wire, by the published clients and the lines of docs/inference.md, with the server's own worker."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch

from sonolora.ltx.lora.adapters import add_adapters, save_lora
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.write_video import write_video
from sonolora.modes import MODES
from sonolora.server import client_examples as examples

pytestmark = pytest.mark.xdist_group("every-endpoint")
APP = "fal-ai/ltx-2.3-quality"
HERE = Path(__file__).parent
RATE, SECONDS = 48_000, 1
DOCS = (HERE.parents[1] / "docs" / "inference.md").read_text("utf-8")
LINES = "\n".join(re.findall(r"^```sh\n(export .*?|curl .*?)^```$", DOCS, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def folder(shallow_base, tmp_path_factory):
    """A user's folder: a LoRA with an effect, a sound of 1 s and a film of 0.4 s."""
    folder = tmp_path_factory.mktemp("sounds")
    model = load_transformer(
        find_base(shallow_base).checkpoint, video=False, device=torch.device("cpu"), dtype=torch.float32
    )
    adapters = add_adapters(model, MODES["t2a"].lora_targets, 8, 0)
    torch.nn.init.normal_(adapters.flat, std=0.1)
    save_lora(folder / "lora.safetensors", adapters, {"format": "pt", "mode": "t2a", "seconds": "0.5"})
    time = np.arange(SECONDS * RATE) / RATE
    soundfile.write(folder / "take.wav", 0.4 * np.sin(2 * np.pi * 300 * time), RATE, "PCM_24")
    pictures = np.zeros((10, 64, 64, 3), np.uint8)
    pictures[5:, 16:48, 16:48] = 255
    write_video(folder / "film.mp4", pictures, 24, None)
    return folder


@pytest.fixture(scope="module")
def travel(served, folder, run_here):
    """Runs the tour; what each call returned, and the log of each request."""

    def travel(which):
        first_lines = examples.python(served.address, served.banner_value("key:")).partition("\n\nresult = ")[0] + "\n"
        tour = (HERE / "inference_tour.py").read_text("utf-8")
        opening, future, rest = tour.partition("from __future__ import annotations\n")
        program = opening + future + first_lines + rest
        return SimpleNamespace(**json.loads(run_here([sys.executable, "-c", program, "soft rain", which], folder)))

    return travel


@pytest.fixture(scope="module")
def tour(travel):
    return travel("quick")


@pytest.fixture(scope="module")
def whole_tour(travel):
    return travel("all")


@pytest.fixture(scope="module")
def sound(served):
    """The samples of an output, as floats."""
    return lambda file: soundfile.read(io.BytesIO(served.download(file)), always_2d=True)[0]


def test_words_become_a_sound(tour, sound):
    words, again = tour.results["words"], tour.results["again"]
    assert words.keys() == {"audio", "prompt", "seed"}
    assert (words["prompt"], words["seed"]) == ("soft rain", 7)
    assert words["audio"]["content_type"] == "audio/wav"
    made = sound(words["audio"])
    assert made.shape == (RATE // 2, 2) and np.abs(made).max() > 0
    assert np.array_equal(made, sound(again["audio"])), "the same seed, the same sound"
    (values,) = [line for line in tour.logs["words"] if line.startswith("values: ")]
    assert "0.5 s (as requested), 8 steps (as requested), guidance scale 1 (as the base recommends)" in values


def test_a_lora_changes_it(tour, sound):
    base, lora = sound(tour.results["words"]["audio"]), sound(tour.results["lora"]["audio"])
    assert base.shape == lora.shape and np.sum((lora - base) ** 2) > 1e-3 * np.sum(base**2)


def test_sync_mode_gives_the_content(tour, served):
    url = tour.results["sync"]["audio"]["url"]
    assert url.startswith("data:audio/wav;base64,")
    assert base64.b64decode(url.partition(",")[2]) == served.download(tour.results["words"]["audio"])


@pytest.mark.slow
def test_several_samples_each_with_the_next_seed(whole_tour, sound):
    result = whole_tour.results["transformed"]
    assert [sample["seed"] for sample in result["samples"]] == [7, 8]
    assert result["audio"] == result["samples"][0]["audio"] and result["audio"]["content_type"] == "audio/flac"
    first, second = (sound(sample["audio"]) for sample in result["samples"])
    assert first.shape == second.shape == (SECONDS * RATE, 2) and not np.array_equal(first, second)


def test_what_is_not_marked_is_kept(tour, sound, folder):
    source = soundfile.read(folder / "take.wav", always_2d=True)[0]
    made = sound(tour.results["inpainted"]["audio"])
    span = slice(round(0.4 * RATE), round(0.8 * RATE))
    assert made.shape == source.shape
    assert np.array_equal(np.delete(made, np.r_[span], axis=0), np.delete(source, np.r_[span], axis=0))
    assert not np.array_equal(made[span], source[span])


@pytest.mark.slow
def test_both_ends_are_extended(whole_tour, sound):
    file = whole_tour.results["extended"]["audio"]
    assert file["content_type"] == "audio/mpeg" and file["file_name"].endswith(".mp3")
    assert len(sound(file)) / RATE == pytest.approx(SECONDS + 0.5, abs=0.1)  # MP3 pads


@pytest.mark.slow
def test_a_film_gets_its_sound(whole_tour, served):
    result = whole_tour.results["scored"]
    assert (result["video"]["content_type"], result["audio"]["content_type"]) == ("video/mp4", "audio/wav")
    with av.open(io.BytesIO(served.download(result["video"]))) as film:
        assert (len(film.streams.video), len(film.streams.audio)) == (1, 1)


def test_a_file_that_is_no_lora_is_a_fault_of_the_request(tour):
    error = tour.results["no lora"]
    assert error["code"] == 422
    (fault,) = error["message"]
    assert fault["loc"] == ["body", "loras", 0, "path"] and fault["msg"].startswith("take.wav")


def test_the_javascript_client(served, sound, folder, run_here):
    modules = os.environ.get("SONOLORA_NODE_MODULES")
    if not shutil.which("node") or not modules:
        pytest.skip("needs node, and the folder of an installed @fal-ai/client in SONOLORA_NODE_MODULES")
    (folder / "node_modules").symlink_to(modules)
    shutil.copy(HERE / "inference_tour.mjs", folder)
    gave = json.loads(run_here(["node", "inference_tour.mjs", served.address, served.banner_value("key:")], folder))
    assert gave["lora"]["data"].keys() == {"audio", "prompt", "seed"} and gave["lora"]["data"]["seed"] == 7
    assert gave["updates"][-1][0] == "COMPLETED"
    assert any(line.startswith("values: ") for line in gave["updates"][-1][1])
    assert len(sound(gave["inpainted"]["data"]["audio"])) == SECONDS * RATE
    (fault,) = gave["refused"]["fieldErrors"]
    assert gave["refused"]["status"] == 422 and fault["loc"] == ["body", "extend_seconds_after"]


@pytest.mark.slow
def test_what_training_returned_is_heard(served, clips, sound):
    data = served.upload((clips / "clips.zip").read_bytes())
    body = {"training_data_url": data, "rank": 8, "number_of_steps": 100, "learning_rate": 0.01}
    trained = served.result(served.submit("t2a", {**body, "audio_duration_seconds": 0.5})).json()
    made = []
    for scale in (0, 1):
        fields = {"prompt": "a tone, number 0", "num_inference_steps": 8, "seed": 3}
        loras = [{"path": trained["lora_file"]["url"], "scale": scale}]
        answer = served.http.post(f"/run/{APP}/text-to-audio/lora", json={**fields, "loras": loras}, timeout=300)
        assert answer.status_code == 200, answer.text
        made.append(sound(answer.json()["audio"]))
    base, lora = made
    assert base.shape == lora.shape == (RATE // 2, 2), "as long as the clips of the training"
    assert np.sum((lora - base) ** 2) > 1e-4 * np.sum(base**2)


@pytest.mark.slow
def test_a_film_without_a_prompt_and_a_file_that_is_no_film(served, folder):
    film, take = (served.upload((folder / name).read_bytes(), name, "video/mp4") for name in ("film.mp4", "take.wav"))
    path = f"/run/{APP}/video-to-audio/lora"
    made = served.http.post(path, json={"video_url": film, "num_inference_steps": 1, "duration": 0.2}, timeout=300)
    assert made.status_code == 200 and made.json()["video"] is None and made.json()["prompt"] == ""
    wrong = served.http.post(path, json={"video_url": take, "num_inference_steps": 1}, timeout=300)
    assert wrong.status_code == 422 and wrong.json()["detail"][0]["loc"] == ["body", "video_url"]


@pytest.mark.slow
def test_the_documented_lines_run(served, folder):
    script = LINES.replace("http://127.0.0.1:8000", served.address).replace("YOUR_KEY", served.banner_value("key:"))
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 4
    assert (folder / "rain.wav").read_bytes().startswith(b"RIFF")
    assert b"ftyp" in (folder / "scored.mp4").read_bytes()[:16]
