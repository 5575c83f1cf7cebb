from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sonolora.core.errors import MediaError
from sonolora.media.scenes import scene_spans
from sonolora.media.write_video import write_video


def _video(path: Path, *scenes: int) -> None:
    """Scenes of so many frames, each a picture of its own that moves sideways."""
    rng = np.random.default_rng(0)
    frames = []
    for length in scenes:
        blocks = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
        frames += [np.roll(picture, index, axis=1) for index in range(length)]
    write_video(path, np.array(frames), 24, None)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_two_cuts_make_three_scenes(tmp_path: Path, name: str) -> None:
    _video(tmp_path / name, 24, 30, 18)
    spans = scene_spans(tmp_path / name)
    np.testing.assert_allclose(spans, [(0, 1), (1, 2.25), (2.25, 3)], atol=0.002)


def test_without_a_cut_there_is_one_scene(tmp_path: Path) -> None:
    _video(tmp_path / "a.mp4", 48)
    assert scene_spans(tmp_path / "a.mp4") == [(0.0, pytest.approx(2.0))]


def test_cuts_in_quick_succession_count_once(tmp_path: Path) -> None:
    _video(tmp_path / "a.mp4", 24, 5, 24, 6)
    np.testing.assert_allclose(scene_spans(tmp_path / "a.mp4"), [(0, 1), (1, 59 / 24)], atol=0.002)


def test_the_threshold_decides(tmp_path: Path) -> None:
    frames = np.full((48, 64, 96, 3), 100, np.uint8)
    frames[24:] = 140  # a step of 16 % of full scale
    write_video(tmp_path / "a.mkv", frames, 24, None)
    assert len(scene_spans(tmp_path / "a.mkv", threshold=15)) == 2
    assert len(scene_spans(tmp_path / "a.mkv", threshold=17)) == 1


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("not a video\n" * 100)
    with pytest.raises(MediaError, match="not audio or video"):
        scene_spans(tmp_path / "a.mp4")
