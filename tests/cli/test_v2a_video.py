"""The option `--v2a-video`: the commands of v2a have it, and no others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import InputError
from sonolora.media.audio import Waveform
from sonolora.media.write_video import write_video
from sonolora.modes import MODES


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.mark.parametrize("command", ["train", "estimate", "generate"])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_an_option_of_v2a_alone(command, mode):
    assert ("--v2a-video" in call(command, mode, "--help").stdout) == (mode == "v2a")


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


def test_estimate_says_what_is_seen(film, tmp_path):
    small = "--number-of-frames 9 --resolution low --aspect-ratio 16:9 --rank 8 --device cpu --v2a-video frozen-cached"
    done = call("estimate", "v2a", film.parent, *small.split(), "--json", tmp_path / "estimate.json")
    needs = json.loads((tmp_path / "estimate.json").read_text())["needs"]
    assert "caching the videos" in done.stdout
    assert "training examples: " in done.stdout
    assert needs["tokens"]["one_way"] and needs["examples"] > 0
    assert needs["stages"][2]["name"] == "caching the videos"
