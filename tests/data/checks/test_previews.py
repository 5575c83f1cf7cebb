"""What makes a preview say less than it seems to."""

from __future__ import annotations

from pathlib import Path

import pytest
from computed_sounds import RATE, sound, speech, wide

from sonolora.analysis.compare import fingerprint
from sonolora.data.checks.previews import prompt_warnings, trained_input_warnings
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav


def test_a_prompt_without_the_trigger_phrase_is_found() -> None:
    prompts = ["f0ley  Vox, a bell", "a gong", "soft F0LEY VOX rain"]
    (warning,) = prompt_warnings(prompts, " f0ley vox ")
    assert warning.startswith("validation.1.prompt lacks the trigger phrase 'f0ley vox'")
    assert prompt_warnings(prompts, "") == []


@pytest.fixture
def trained(tmp_path: Path):
    sounds = {"a.wav": sound(speech(1), speech(2)), "b.wav": sound(speech(3), speech(4)), "c.wav": wide(5)}
    for name, waveform in sounds.items():
        write_wav(tmp_path / name, waveform)
    return {name: (tmp_path / name, fingerprint(waveform)) for name, waveform in sounds.items()}


def test_an_input_that_is_trained_on_is_found_as_a_file_or_as_a_sound(tmp_path: Path, trained) -> None:
    quiet_end = Waveform(0.2 * sound(speech(3), speech(4)).samples[:, RATE:], RATE)
    write_wav(tmp_path / "end.wav", quiet_end)
    write_wav(tmp_path / "new.wav", sound(speech(8), speech(9)))
    inputs = {
        "validation.0.audio_url": (tmp_path / "end.wav", fingerprint(quiet_end)),
        "validation.1.audio_url": (tmp_path / "new.wav", fingerprint(sound(speech(8), speech(9)))),
    }
    (warning,) = trained_input_warnings(inputs, trained)
    assert warning.startswith("validation.0.audio_url is b.wav, which is trained on")
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "c.wav").read_bytes())
    videos = {"validation.0.video_url": (tmp_path / "copy.mp4", None)}
    (warning,) = trained_input_warnings(videos, {name: (path, None) for name, (path, _) in trained.items()})
    assert "is c.wav" in warning
    assert trained_input_warnings({}, trained) == trained_input_warnings(inputs, {}) == []
