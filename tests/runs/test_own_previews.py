"""A run without validation listens to its own held-out clips, in every mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sonolora.conditioning import Example
from sonolora.data.clips import Clip
from sonolora.data.held_out import Split
from sonolora.data.prepared import Prepared
from sonolora.media.audio import Waveform
from sonolora.runs.report.preview_sources import own_previews

RATE, OUT_RATE, FRAMES = 16_000, 48_000, 50


def sound(seconds: float = 2.0) -> Waveform:
    return Waveform(np.full((2, round(seconds * RATE)), 0.1, np.float32), RATE)


def made(clips: list[Clip], held_out: tuple[int, ...] = (1, 3), count: int = 2, **parts):
    """Items and sources of clips with latents of ones."""
    example = Example(torch.ones(1, FRAMES, 8), torch.zeros(1, 4, 8), **parts)
    names = tuple(clip.name for clip in clips)
    prepared = Prepared((example,) * len(clips), names, (), "digest")
    split = Split(held_out, tuple(range(len(clips))), "")
    return own_previews(
        prepared, clips, split, torch.zeros(1, 4, 8), count=count, max_seconds=5.0, output_sample_rate=OUT_RATE
    )


@pytest.fixture
def clips() -> list[Clip]:
    return [Clip(f"clip{index}", f"caption {index}", sound()) for index in range(5)]


def test_words_are_the_captions_of_held_out_clips(clips) -> None:
    items, sources = made(clips)
    assert [item.prompt for item in items] == ["caption 1", "caption 3"]
    assert [(one.clip, one.held_out, one.real) for one in sources] == [
        ("clip1", True, "report/0002.wav"),
        ("clip3", True, "report/0004.wav"),
    ]
    assert all((item.example.latents_BTC == 0).all() for item in items), "nothing of the target is left"


def test_without_held_out_clips_it_is_those_of_the_training(clips) -> None:
    items, sources = made(clips, held_out=())
    assert [item.prompt for item in items] == ["caption 0", "caption 4"]
    assert not any(one.held_out for one in sources)


def test_clips_with_other_words_are_preferred(clips) -> None:
    same = [replace(clip, caption="one") for clip in clips[:3]] + [clips[3]]
    items, _ = made(same, held_out=(0, 1, 2, 3), count=2)
    assert [item.prompt for item in items] == ["one", "caption 3"]


def test_what_is_kept_is_given_and_the_rest_is_not(clips) -> None:
    keep = torch.zeros(1, FRAMES, dtype=torch.bool)
    keep[:, :10] = True
    masked = [replace(clip, regenerate=((0.4, 2.0),)) for clip in clips]
    items, sources = made(masked, keep_BT=keep)
    latents = items[0].example.latents_BTC
    assert (latents[:, :10] == 1).all() and (latents[:, 10:] == 0).all()
    assert items[0].regenerate == ((0.4, 2.0),)
    assert items[0].kept_CN is not None and items[0].kept_CN.shape == (2, 2 * OUT_RATE)
    assert sources[0].given == sources[0].real == "report/0002.wav"


def test_a_reference_stands_beside_its_target(clips) -> None:
    pairs = [replace(clip, reference=sound()) for clip in clips]
    _, sources = made(pairs, reference_BRC=torch.ones(1, FRAMES, 8))
    assert (sources[0].given, sources[0].real) == ("report/0002-reference.wav", "report/0002.wav")
