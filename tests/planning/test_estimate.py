"""Estimates of runs on bases and cards that are not here."""

from __future__ import annotations

import numpy as np
import pytest
from run_support import Silent

from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning.estimate import Power, estimate
from sonolora.planning.run_settings import RunSettings

RATE, CLIPS = 16000, 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for index, seconds in enumerate((*[0.6] * CLIPS, 0.2)):
        samples = np.random.default_rng(index).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)
        write_audio(folder / f"clip{index}.wav", Waveform(samples, RATE))
        (folder / f"clip{index}.txt").write_text(f"noise number {index}")
    return folder


def test_a_base_that_is_not_here(clips, monkeypatch, tmp_path):
    """On a machine without a registered LTX-2.3 its published shape is taken, and its time is a bound on this CPU."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    request = parse(T2A.request, {"training_data_url": str(clips), "audio_duration_seconds": 0.5, "rank": 8})
    result = estimate(
        T2A, request, RunSettings("ltx-2.3", "cpu"), tmp_path / "out", Silent(), Power(100, 1), available=1
    )
    assert result.needs.text_tokens == 1024
    assert result.needs.stages[2].held["transformer"] == 4 * 3_286_408_320
    assert result.error is None  # on a CPU it is no error


def test_a_card_that_is_not_here(clips, monkeypatch, tmp_path):
    """It is counted as a card computes, held to its memory, and told what would fit; time is not guessed."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    request = parse(T2A.request, {"training_data_url": str(clips), "audio_duration_seconds": 0.5})
    result = estimate(T2A, request, RunSettings("ltx-2.3"), tmp_path / "out", Silent(), card=8)
    assert (result.device, result.dtype) == ("a card of 8 GB", "bfloat16")
    assert result.needs.stages[2].held["transformer"] == 6_574_987_520  # bfloat16, but for the tables
    assert result.pace is None
    assert "--block-offload" in str(result.error)
