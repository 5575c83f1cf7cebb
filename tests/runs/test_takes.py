"""Takes have the seeds that follow one another; a comparison is base and LoRA on one seed, equally loud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_audio
from sonolora.modes import MODES
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.runs.generation import takes
from sonolora.runs.generation.takes import generate_takes


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, GenerateSettings]]:
    """What `generate` was asked for; it writes a tone, ten times softer without a LoRA."""
    asked = []

    def generate(mode, body, settings, out, progress, *, networks):  # noqa: ARG001 - the signature of the product
        asked.append((out.name, settings))
        time = np.arange(16_000) / 16_000
        level = 0.5 if settings.lora else 0.05
        write_audio(out, Waveform(np.tile(level * np.sin(2764 * time), (2, 1)).astype(np.float32), 16_000))

    monkeypatch.setattr(takes, "generate", generate)
    return asked


def test_each_take_has_a_seed_of_its_own(made, tmp_path: Path) -> None:
    written = generate_takes(MODES["t2a"], {}, GenerateSettings(seed=7), tmp_path / "a.wav", None, takes=3)
    assert [(name, settings.seed) for name, settings in made] == [("a-1.wav", 7), ("a-2.wav", 8), ("a-3.wav", 9)]
    assert [path.name for what, path in written if what != "picture"] == ["a-1.wav", "a-2.wav", "a-3.wav"]


def test_base_and_lora_are_compared_on_one_seed_equally_loud(made, tmp_path: Path) -> None:
    settings = GenerateSettings(lora=tmp_path / "lora.safetensors", seed=7, scale=0.5)
    written = dict(generate_takes(MODES["t2a"], {"prompt": "x"}, settings, tmp_path / "a.wav", None, compare=True))
    assert [(name, one.seed, one.lora is None) for name, one in made] == [
        ("a.wav", 7, False),
        ("a-base.wav", 7, True),
    ]
    together = decode_audio(written["compared"]).waveform
    first, second = together.samples[:, :16_000], together.samples[:, -16_000:]
    assert np.abs(first).max() == pytest.approx(np.abs(second).max(), rel=0.03)
    assert written["picture"].name == "a-compare.png" and written["picture"].is_file()
