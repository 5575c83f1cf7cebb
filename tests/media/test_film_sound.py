"""A film with another sound: the same picture, packet by packet, and the sound in step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.film_sound import write_film
from sonolora.media.video import decode_frames, probe_video
from sonolora.media.write_video import write_video


def film(path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (48, 32, 48, 3), np.uint8)
    write_video(path, frames, 24.0, Waveform(np.zeros((2, 96_000), np.float32), 48_000))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_picture_stays_and_the_sound_is_new(tmp_path: Path, name: str) -> None:
    source = film(tmp_path / name)
    click = np.zeros((2, 48_000), np.float32)
    click[:, 24_000:24_100] = 0.9
    write_film(tmp_path / "out.mp4", source, Waveform(click, 48_000))
    heard = decode_audio(tmp_path / "out.mp4").waveform
    assert heard.samples.any(axis=0).nonzero()[0][0] / 48_000 == pytest.approx(0.5, abs=0.03)
    assert probe_video(tmp_path / "out.mp4").seconds == pytest.approx(1.0, abs=0.09), "as long as the sound"
    if name == "a.mp4":
        shown, made = (
            decode_frames(path, frame_rate=24.0, frames=8, width=48, height=32)
            for path in (source, tmp_path / "out.mp4")
        )
        assert (shown == made).all()
