"""A run of a2a with its reference at negative times: in the metadata, in the previews, and obeyed by `generate`."""

from __future__ import annotations

import pytest
from run_support import Silent, begin
from safetensors import safe_open

from sonolora.core.errors import InputError
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_audio
from sonolora.modes import MODES
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.generation.generate import generate


def test_a_run_with_negative_times(dataset, shallow_base, tmp_path):
    sound = decode_audio(dataset / "clip0.wav").waveform
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for name, gain in (("one_start", 0.5), ("one_end", 1.0)):
        write_audio(pairs / f"{name}.wav", Waveform(gain * sound.samples, sound.sample_rate))
    (pairs / "one.txt").write_text("louder")
    body = {
        "training_data_url": str(pairs),
        "rank": 8,
        "number_of_steps": 1,
        "audio_duration_seconds": 0.5,
        "validation": [{"prompt": "louder", "reference_audio_url": str(pairs / "one_start.wav")}],
    }
    previews = {}
    for positions in ("overlap", "negative"):
        folder = tmp_path / positions
        settings = RunSettings(str(shallow_base), "cpu", reference_positions=positions)
        begin("a2a", body, settings, folder)
        with safe_open(folder / "lora.safetensors", "pt") as file:
            assert file.metadata()["reference_positions"] == positions
        (base, _) = RunArtifacts(folder).previews()
        previews[positions] = decode_audio(RunArtifacts(folder).path(base.sound)).waveform.samples
    assert abs(previews["overlap"] - previews["negative"]).max() > 1e-3

    lora, out = tmp_path / "negative" / "lora.safetensors", tmp_path / "out.wav"
    request = {"prompt": "louder", "reference": str(pairs / "one_start.wav"), "seconds": 0.5}
    settings = {"base": str(shallow_base), "device": "cpu", "steps": 4}
    with pytest.raises(InputError, match="trained with negative and needs it; found overlap"):
        generate(
            MODES["a2a"], request, GenerateSettings(lora, reference_positions="overlap", **settings), out, Silent()
        )
    generate(MODES["a2a"], request, GenerateSettings(lora, scale=0.0, **settings), out, Silent())
    mine = decode_audio(out).waveform.samples
    assert abs(mine - previews["negative"]).max() < 1e-3, "at scale 0, the base as it was previewed"
