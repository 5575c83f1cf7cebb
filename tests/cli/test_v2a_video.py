"""The option `--v2a-video` of the commands of v2a."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import InputError
from sonolora.media.audio import Waveform
from sonolora.media.write_video import write_video


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    time = np.arange(20000) / 48000
    tone = (0.5 * np.sin(2000 * time)).astype(np.float32)
    write_video(folder / "a.mp4", np.zeros((10, 64, 64, 3), np.uint8), 24, Waveform(np.stack([tone, tone]), 48000))
    (folder / "a.txt").write_text("a tone")
    return folder / "a.mp4"


def test_another_word_is_refused(film, tmp_path):
    with pytest.raises(InputError, match="'frozen' is not one of joint, frozen-cached"):
        call("train", "v2a", film.parent, "--out", tmp_path / "run", "--v2a-video", "frozen")
    with pytest.raises(InputError, match="'frozen' is not one of joint, frozen-cached"):
        call("generate", "v2a", "--video", film, "--prompt", "x", "--out", tmp_path / "x.wav", "--v2a-video", "frozen")
