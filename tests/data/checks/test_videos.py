"""A video's timing, and the sound of a scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from computed_sounds import RATE, sound, speech, wide

from sonolora.analysis.measure import measure
from sonolora.data.checks.videos import scene_warnings, video_warnings
from sonolora.media.video import VideoInfo


def test_videos_whose_sound_and_picture_differ_or_whose_rate_varies_are_found() -> None:
    info = VideoInfo(640, 480, 120, 24.0, 5.0, False, 5.05, None)
    assert video_warnings(info) == video_warnings(replace(info, audio_seconds=None)) == []
    (warning,) = video_warnings(replace(info, audio_seconds=4.0))
    assert "picture lasts 5.00 s and its sound 4.00 s: the rest is trained as silence" in warning
    (warning,) = video_warnings(replace(info, audio_seconds=7.0))
    assert "not used" in warning
    (warning,) = video_warnings(replace(info, variable_frame_rate=True))
    assert "variable frame rate (24.00 on average)" in warning


def test_a_scene_with_nearly_no_sound_is_found() -> None:
    assert scene_warnings(measure(wide(0))) == scene_warnings(measure(sound(speech(), speech()))) == []
    (warning,) = scene_warnings(measure(sound(0.04 * speech(), 0.04 * speech())))
    assert warning.startswith("nearly no sound: its peak is -5")
    click = np.zeros(3 * RATE)
    click[:2000] = 0.5 * np.random.default_rng(0).normal(size=2000)
    (warning,) = scene_warnings(measure(sound(np.clip(click, -1, 1), np.clip(click, -1, 1))))
    assert "98% of it is silent" in warning
