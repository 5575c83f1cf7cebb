"""The learned space against the original's own numbers, and the spaces that packages add."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sonolora.analysis import embeddings as module
from sonolora.analysis.embeddings import embeddings
from sonolora.analysis.learned_space import (
    BLOCK_FRAMES,
    MAX_BLOCKS,
    SAMPLE_RATE,
    WEIGHTS,
    LearnedSpace,
    blocks,
    embed,
    log_mel,
)
from sonolora.core.checked_tensors import load_checked
from sonolora.media.audio import Waveform

GOLDEN = Path(__file__).parents[1] / "golden" / "aisfx.safetensors"


def hiss(seconds, seed=0, level=0.1):
    samples = level * np.random.default_rng(seed).normal(size=(2, round(seconds * SAMPLE_RATE)))
    return Waveform(samples.astype(np.float32), SAMPLE_RATE)


def tone(hertz, seconds=0.5):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return Waveform(np.tile(0.3 * np.sin(2 * np.pi * hertz * time), (2, 1)).astype(np.float32), SAMPLE_RATE)


def test_levels_and_embedding_are_the_originals():
    """Which `tools/judges/compare_aisfx.py` wrote with Essentia and the original network."""
    golden, _ = load_checked(GOLDEN)
    levels = log_mel(golden["samples"])
    torch.testing.assert_close(levels, golden["levels"], atol=2e-3, rtol=0)
    weights = {name: tensor.float() for name, tensor in load_checked(WEIGHTS)[0].items()}
    found = embed(weights, blocks(levels).float())
    error = (found[0] - golden["embedding"]).norm() / golden["embedding"].norm()
    assert error < 0.005


def test_sounds_of_a_kind_are_near():
    vectors = LearnedSpace()([hiss(0.5), hiss(0.5, seed=1, level=0.01), tone(440), tone(470)])
    assert vectors.shape == (4, 512) and vectors.dtype == torch.float64
    apart = torch.cdist(vectors, vectors)
    assert max(apart[0, 1], apart[2, 3]) < 0.5 * apart[:2, 2:].min()


def test_a_long_sound_is_the_mean_of_blocks_spread_over_it():
    levels = torch.arange(20 * BLOCK_FRAMES + 30.0)[:, None].expand(-1, 2)
    chosen = blocks(levels)[:, 0, 0] / BLOCK_FRAMES
    assert len(chosen) == MAX_BLOCKS and chosen[0] == 0 and chosen[-1] == 19
    short = blocks(levels[:30])
    assert short.shape == (1, BLOCK_FRAMES, 2) and short[0, 30:].abs().max() == 0


class Point:
    """An entry point of a package."""

    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"package:{name}", load


def test_packages_add_spaces_and_a_broken_one_costs_nothing(monkeypatch):
    class Loudness:
        name, title = "loudness", "by loudness"

        def __call__(self, sounds):
            return torch.tensor([[float(np.abs(sound.samples).mean())] for sound in sounds]).double()

    def broken():
        raise ImportError("no such module")

    points = [Point("pitch", broken), Point("loudness", lambda: Loudness)]
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == module.ENTRY_POINTS else [])
    warnings: list[str] = []
    found = list(embeddings(warnings.append))
    assert [space.name for space in found] == ["log_mel", "aisfx", "loudness"]
    assert found[2]([hiss(0.1, level=0.2)]).item() == pytest.approx(0.16, abs=0.01)
    (warning,) = warnings
    assert "pitch" in warning and "no such module" in warning
