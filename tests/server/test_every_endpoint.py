"""Every endpoint over the wire, with the server's own worker: an archive goes up, and a LoRA that has an effect down.

The two endpoints of one mode, `a2a` and `ic-lora/a2a`, return the same LoRA for the same data. Only `a2a`, with every
optional output, is not among the slow tests; the example of `test_python_client` trains `t2a`.
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
from sonolora.runs.generation.generate import GenerateSettings, generate
from sonolora.server.api.schemas import TrainingOutput
from sonolora.server.endpoints.training import PATHS

pytestmark = pytest.mark.xdist_group("every-endpoint")
RATE = 48000
SHORT = {"rank": 8, "number_of_steps": 100, "learning_rate": 0.01}
SOUND = {**SHORT, "audio_duration_seconds": 0.5}
VIDEO = {**SHORT, "number_of_frames": 9, "resolution": "low", "aspect_ratio": "16:9"}
IN_CI = "a2a"
FEW_STEPS = 4  # of sampling, enough for a difference
MIN_CHANGE = 1e-5  # of the energy of what the base generates: 50 dB below it, and far above rounding to 16 bits


def sweep(pitch, seconds=0.6):
    time = np.arange(round(seconds * RATE)) / RATE
    samples = 0.5 * np.sin(2 * np.pi * pitch * (1 + time) * time)
    return Waveform(np.stack([samples, samples]).astype(np.float32), RATE)


def video(path, pitch, sound=True):
    """A picture that changes half way."""
    pictures = np.zeros((10, 64, 64, 3), np.uint8)
    pictures[5:, 16:48, 16:48] = 255
    write_video(path, pictures, 24, sweep(pitch, 10 / 24) if sound else None)


def archive(mode, folder):
    """A zip of two clips for the mode."""
    for pitch in (250, 400):
        (folder / f"c{pitch}.txt").write_text(f"a rising tone at {pitch} Hz")
        if mode == "v2a":
            video(folder / f"c{pitch}.mp4", pitch)
            continue
        suffix = "_end" if mode == "a2a" else ""
        write_wav(folder / f"c{pitch}{suffix}.wav", sweep(pitch))
        if mode == "a2a":
            write_wav(folder / f"c{pitch}_start.wav", sweep(2 * pitch))
        if mode == "audio-inpaint":
            (folder / f"c{pitch}_mask.json").write_text("[[0.1, 0.3]]")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as made:
        for path in sorted(folder.iterdir()):
            made.write(path, path.name)
    return zipped.getvalue()


def generation(mode, folder):
    """A request for `generate`, and the seconds of its result that are generated."""
    write_wav(folder / "source.wav", sweep(330, 0.6))
    video(folder / "silent.mp4", 330, sound=False)
    source = str(folder / "source.wav")
    seconds = 9 / 24 if mode == "v2a" else 0.5
    options, span = {
        "t2a": ({}, (0, seconds)),
        "a2a": ({"reference": source}, (0, seconds)),
        "v2a": ({"video": str(folder / "silent.mp4")}, (0, seconds)),
        "audio-inpaint": ({"audio": source, "time_ranges": [[0.1, 0.3]]}, (0.1, 0.3)),
        "audio-extend-suffix": ({"audio": source, "conditioning_seconds": 0.2}, (0, 0.3)),
        "audio-extend-prefix": ({"audio": source, "conditioning_seconds": 0.2}, (0.6, 0.9)),
    }[mode]
    length = {"extend_seconds": 0.3} if "extend" in mode else {"seconds": seconds}
    return {"prompt": "a rising tone", **length, **options}, span


@pytest.fixture(scope="module")
def loras():
    """The LoRAs trained so far, by endpoint."""
    return {}


@pytest.mark.parametrize(
    "endpoint", [one if one == IN_CI else pytest.param(one, marks=pytest.mark.slow) for one in PATHS]
)
def test_an_uploaded_archive_becomes_a_lora_that_changes_what_is_generated(
    endpoint, served, shallow_base, loras, receiver, tmp_path
):
    mode, data = PATHS[endpoint], tmp_path / "data"
    data.mkdir()
    body = {**(VIDEO if mode == "v2a" else SOUND), "training_data_url": served.upload(archive(mode, data))}
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
    TrainingOutput.model_validate(files)
    config = served.download(files["config_file"])
    assert json.loads(config)["training_type"] == mode
    assert b"_url" not in config and served.address.encode() not in config
    notice = json.loads(receiver.wait(id)[1])
    assert (notice["status"], notice["payload"]) == ("OK", files)

    lora, loras[endpoint] = tmp_path / "lora.safetensors", served.download(files["lora_file"])
    lora.write_bytes(loras[endpoint])
    with safe_open(lora, "np") as opened:
        assert opened.metadata()["mode"] == mode
    body, span = generation(mode, tmp_path)
    for name, path in (("base", None), ("trained", lora)):
        settings = GenerateSettings(path, base=shallow_base, device="cpu", steps=FEW_STEPS)
        generate(MODES[mode], body, settings, tmp_path / f"{name}.wav", Silent())
    start, end = (round(RATE * second) * 2 for second in span)  # stereo
    base, trained = (
        np.frombuffer((tmp_path / f"{name}.wav").read_bytes()[44:], np.int16)[start:end].astype(float)
        for name in ("base", "trained")
    )
    assert len(base) == len(trained) > 0
    assert np.sum((trained - base) ** 2) > MIN_CHANGE * np.sum(base**2)


@pytest.mark.slow
def test_the_same_data_gives_the_same_lora_by_both_names(loras):
    if not {"a2a", "ic-lora/a2a"} <= set(loras):
        pytest.skip("needs both")
    assert loras["a2a"] == loras["ic-lora/a2a"]
