"""Every endpoint over the wire, with the server's own worker: an archive goes up, a LoRA comes down and is heard.

The two that share a mode, `a2a` and `ic-lora/a2a`, give the same LoRA for the same data. Only `a2a`, with everything
that a request can ask for, is not among the slow tests; the example of `test_python_client` trains `t2a`.
"""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from run_support import Silent
from safetensors import safe_open

from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video
from sonolora.modes import MODES
from sonolora.runs.generate import GenerateSettings, generate
from sonolora.server.net.urls import ENDPOINTS

pytestmark = pytest.mark.xdist_group("served")
RATE = 48000
SHORT = {"rank": 8, "number_of_steps": 100, "learning_rate": 0.01}
SOUND = {**SHORT, "audio_duration_seconds": 0.5}
FILM = {**SHORT, "number_of_frames": 9, "resolution": "low", "aspect_ratio": "16:9"}
IN_CI = "a2a"
FEW_STEPS = 4  # enough to hear that something has changed


def sweep(pitch, seconds=0.6):
    time = np.arange(round(seconds * RATE)) / RATE
    samples = 0.5 * np.sin(2 * np.pi * pitch * (1 + time) * time)
    return Waveform(np.stack([samples, samples]).astype(np.float32), RATE)


def film(path, pitch, sound=True):
    """A picture that jumps half way."""
    pictures = np.zeros((10, 64, 64, 3), np.uint8)
    pictures[5:, 16:48, 16:48] = 255
    write_video(path, pictures, 24, sweep(pitch, 10 / 24) if sound else None)


def archive(mode, folder):
    """Two clips as the mode wants them, zipped."""
    for pitch in (250, 400):
        (folder / f"c{pitch}.txt").write_text(f"a rising tone at {pitch} Hz")
        if mode == "v2a":
            film(folder / f"c{pitch}.mp4", pitch)
            continue
        ending = "_end" if mode == "a2a" else ""
        write_wav(folder / f"c{pitch}{ending}.wav", sweep(pitch))
        if mode == "a2a":
            write_wav(folder / f"c{pitch}_start.wav", sweep(2 * pitch))
        if mode == "audio-inpaint":
            (folder / f"c{pitch}_mask.json").write_text("[[0.1, 0.3]]")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as made:
        for path in sorted(folder.iterdir()):
            made.write(path, path.name)
    return zipped.getvalue()


def asked(mode, folder):
    """What `generate` is asked for."""
    write_wav(folder / "given.wav", sweep(330))
    film(folder / "silent.mp4", 330, sound=False)
    given = str(folder / "given.wav")
    more = {
        "t2a": {},
        "a2a": {"reference": given},
        "v2a": {"video": str(folder / "silent.mp4")},
        "audio-inpaint": {"audio": given, "time_ranges": [[0.1, 0.3]]},
        "audio-extend-suffix": {"audio": given, "conditioning_seconds": 0.2},
        "audio-extend-prefix": {"audio": given, "conditioning_seconds": 0.2},
    }
    length = {"extend_seconds": 0.3} if "extend" in mode else {"seconds": 9 / 24 if mode == "v2a" else 0.5}
    return {"prompt": "a rising tone", **length, **more[mode]}


@pytest.fixture(scope="module")
def loras():
    """The files that were trained so far, by endpoint."""
    return {}


@pytest.mark.parametrize(
    "endpoint", [one if one == IN_CI else pytest.param(one, marks=pytest.mark.slow) for one in ENDPOINTS]
)
def test_an_uploaded_archive_becomes_a_lora_that_changes_what_is_heard(endpoint, served, loras, receiver, tmp_path):
    mode, data = ENDPOINTS[endpoint], tmp_path / "data"
    data.mkdir()
    body = {**(FILM if mode == "v2a" else SOUND), "training_data_url": served.upload(archive(mode, data))}
    if mode.startswith("audio-extend"):
        body["conditioning_seconds"] = 0.2
    if mode == "a2a":
        reference = served.upload((data / "c250_start.wav").read_bytes(), "r.wav", "audio/wav")
        body |= {"validation": [{"prompt": "a tone", "reference_audio_url": reference}], "debug_dataset": True}
    id = served.submit(endpoint, body, fal_webhook=receiver.url)
    result = served.result(id)
    assert result.status_code == 200, result.text
    assert (result.headers["x-fal-billable-units"], result.headers["x-fal-request-id"]) == ("100", id)

    files = result.json()
    assert set(files) == {"lora_file", "config_file", "audio", "video", "debug_dataset"}
    assert {name for name, file in files.items() if file is None} == (
        {"video"} if mode == "a2a" else {"video", "audio", "debug_dataset"}
    )
    assert json.loads(served.download(files["config_file"]))["training_type"] == mode
    told = json.loads(receiver.wait(id)[1])
    assert (told["status"], told["payload"]) == ("OK", files)

    lora, loras[endpoint] = tmp_path / "lora.safetensors", served.download(files["lora_file"])
    lora.write_bytes(loras[endpoint])
    with safe_open(lora, "np") as opened:
        assert opened.metadata()["mode"] == mode
    body = asked(mode, tmp_path)
    for name, path in (("base", None), ("trained", lora)):
        settings = GenerateSettings(path, device="cpu", steps=FEW_STEPS)
        generate(MODES[mode], body, settings, tmp_path / f"{name}.wav", Silent())
    base, trained = ((tmp_path / f"{name}.wav").read_bytes()[44:] for name in ("base", "trained"))
    assert len(base) == len(trained)
    difference = np.frombuffer(trained, np.int16).astype(float) - np.frombuffer(base, np.int16)
    assert np.abs(difference).max() > 300, "more than a hundredth of full scale"


@pytest.mark.slow
def test_the_same_data_gives_the_same_lora_by_both_names(loras):
    if not {"a2a", "ic-lora/a2a"} <= set(loras):
        pytest.skip("needs both")
    assert loras["a2a"] == loras["ic-lora/a2a"]
