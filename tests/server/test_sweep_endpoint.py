"""The endpoints of sweeps: what they refuse, and a sweep over the wire with the server's own worker."""

from __future__ import annotations

import io
import json
import time
import zipfile

import numpy as np
import pytest

from sonolora.core.errors import InputError
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.server.endpoints.registry import ENDPOINTS

DATA = {"training_data_url": "https://example.org/clips.zip"}
LIMIT = 300


@pytest.mark.parametrize("mode", MODES)
def test_a_request_becomes_a_plan(mode):
    endpoint = ENDPOINTS[f"sonolora/trainer/{mode}/sweep"]
    job = endpoint.job(parse(endpoint.request, {**DATA, "rank": [8, "16"], "learning_rate": [1e-3], "held_out": 3}))
    members = [{"learning_rate": 1e-3, "rank": rank} for rank in (8, 16)]
    assert job.mode == mode
    assert job.options == {"sweep": {"members": members, "keep_all": False}, "settings": {"held_out": 3}}
    assert len(endpoint.job(parse(endpoint.request, DATA)).options["sweep"]["members"]) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": [9]}, "rank.0: Input should be 8"),
        ({"learning_rate": [2]}, "learning_rate.0: Input should be less than"),
        ({"learning_rate": 1e-4}, "learning_rate: Input should be a valid array"),
        ({"learning_rate": [1e-4]}, "two members or more"),
        ({"held_out": 0}, "held_out: Input should be greater than or equal to 0.001"),
    ],
)
def test_what_is_no_sweep_is_refused(fields, words):
    endpoint = ENDPOINTS["sonolora/trainer/t2a/sweep"]
    with pytest.raises(InputError, match=words):
        endpoint.job(parse(endpoint.request, {**DATA, **fields}))


def archive(folder):
    """Four tones."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as made:
        for index in range(4):
            seconds = np.arange(round(0.6 * 48000)) / 48000
            samples = 0.5 * np.sin(2 * np.pi * (300 + 170 * index) * seconds)
            write_wav(folder / "clip.wav", Waveform(np.stack([samples, samples]).astype(np.float32), 48000))
            made.write(folder / "clip.wav", f"c{index}.wav")
            made.writestr(f"c{index}.txt", f"a tone, number {index}")
    return zipped.getvalue()


@pytest.mark.slow
def test_a_sweep_over_the_wire_gives_the_best_lora(served, tmp_path):
    body = {
        "training_data_url": served.upload(archive(tmp_path)),
        **{"number_of_steps": 100, "audio_duration_seconds": 0.5, "held_out": 2},
        **{"learning_rate": [1e-3, 1e-2], "rank": [8, 16]},
    }
    queued = served.http.post("/sonolora/trainer/t2a/sweep", json=body)
    assert queued.status_code == 200, queued.text
    url = f"/sonolora/trainer/requests/{queued.json()['request_id']}"
    end = time.monotonic() + LIMIT
    while served.http.get(f"{url}/status").json()["status"] != "COMPLETED":
        assert time.monotonic() < end
        time.sleep(0.2)
    result = served.http.get(url)
    assert result.status_code == 200, result.text
    assert result.headers["x-fal-billable-units"] == str(33 * 4 + 34 * 2 + 33), "steps of all members"
    files = result.json()
    standings = json.loads(served.download(files["standings"]))
    best = standings["members"][standings["best"]]
    assert best["steps"] == 100
    config = json.loads(served.download(files["config_file"]))
    assert (config["request"]["rank"], config["request"]["learning_rate"]) == (best["rank"], best["learning_rate"])
    assert served.download(files["curves"]).startswith(b"\x89PNG")
    assert len(served.download(files["lora_file"])) > 0
