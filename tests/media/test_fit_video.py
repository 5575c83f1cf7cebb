from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform
from sonolora.media.fit_video import FittedVideo, TooShort, fit_video
from sonolora.media.write_video import write_video

EVENTS = (0.5, 1.25, 2.0, 2.5)
QUARTER = 0.25
# Name, codecs, how the video is made, and what comes out: how late the flashes and the clicks are, and how long it is.
KINDS = [
    ("a.mp4", ("libx264", "aac"), {}, 0, 0, 3),
    ("b.mp4", ("libx264", "libmp3lame"), {}, 0, 0, 3),
    ("c.mp4", ("libx264", "aac"), {"picture_start": QUARTER}, 0, -QUARTER, 3),
    ("d.mp4", ("libx264", "aac"), {"sound_start": QUARTER}, 0, QUARTER, 3),
    # An edit list hides the beginning.
    ("e.mp4", ("libx264", "aac"), {"picture_start": -QUARTER, "sound_start": -QUARTER}, -QUARTER, -QUARTER, 2.75),
    ("a.mov", ("libx264", "pcm_s16le"), {}, 0, 0, 3),
    ("b.mov", ("mpeg4", "aac"), {}, 0, 0, 3),
    ("c.mov", ("libx264", "pcm_s16le"), {"picture_start": QUARTER}, 0, -QUARTER, 3),
    # FFmpeg writes MP3 into AVI so: the picture by a frame late, the sound by the 1105 samples of the encoder.
    ("a.avi", ("mpeg4", "libmp3lame"), {}, 1 / 24, 1105 / 48_000, 3 + 1 / 24),
    ("b.avi", ("mpeg4", "pcm_s16le"), {}, 0, 0, 3),
    ("c.avi", ("mpeg4", "pcm_s16le"), {"options": {"bf": "2"}}, 0, 0, 3),
    ("a.mkv", ("libvpx-vp9", "libopus"), {}, 0, 0, 3),
    ("b.mkv", ("ffv1", "flac"), {}, 0, 0, 3),
    ("c.mkv", ("libx264", "aac"), {"picture_start": QUARTER}, 0, -QUARTER, 3),
    ("d.mkv", ("libx264", "aac"), {"sound_start": QUARTER}, 0, QUARTER, 3),
]


def _fit(path: Path, frames: int, rate: float, **arguments) -> FittedVideo:
    fitted = _fit_or_not(path, frames, rate, **arguments)
    assert isinstance(fitted, FittedVideo)
    assert fitted.frames.shape == (frames, 64, 96, 3)
    assert fitted.waveform.samples.shape == (2, round(frames / rate * 48_000))
    assert fitted.waveform.sample_rate == 48_000
    return fitted


def _fit_or_not(path: Path, frames: int, rate: float, auto_scale: bool = False, **arguments) -> FittedVideo | TooShort:
    sizes = {"width": 96, "height": 64, "sample_rate": 48_000}
    return fit_video(path, number_of_frames=frames, frame_rate=rate, auto_scale=auto_scale, **sizes, **arguments)


def _flashes(frames: NDArray[np.uint8], rate: float) -> NDArray[np.float64]:
    """When the upper half turns white, in seconds."""
    white = frames[:, :24].mean(axis=(1, 2, 3)) > 150
    return np.flatnonzero(white & ~np.concatenate([[False], white[:-1]])) / rate


def _clicks(waveform: Waveform) -> NDArray[np.float64]:
    """When the clicks set in, in seconds."""
    loud = np.flatnonzero(np.abs(waveform.samples).max(axis=0) > 0.3 * np.abs(waveform.samples).max())
    return loud[np.diff(loud, prepend=-waveform.sample_rate) > waveform.sample_rate // 10] / waveform.sample_rate


@pytest.mark.parametrize(("name", "codecs", "made", "flash_late", "click_late", "seconds"), KINDS)
def test_flash_and_click_stay_together(
    tmp_path: Path,
    make_video,
    name: str,
    codecs: tuple[str, str],
    made,
    flash_late: float,
    click_late: float,
    seconds: float,
) -> None:
    """At every rate and speed, each within a frame of the moment that the file gives it."""
    make_video(tmp_path / name, codecs=codecs, events=EVENTS, **made)
    for frames, rate, auto_scale in [
        (60, 30, False),
        (107, 24, True),  # stretched 1.5 times
        (49, 24, True),  # squeezed 1.5 times
    ]:
        fitted = _fit(tmp_path / name, frames, rate, auto_scale=auto_scale)
        speed = seconds / (frames / rate) if auto_scale else 1.0
        flashes, clicks = ((np.array(EVENTS) + late) / speed for late in (flash_late, click_late))
        end = frames / rate - 0.05
        delays = _flashes(fitted.frames, rate)[: np.count_nonzero(flashes < end)] - flashes[flashes < end]
        assert delays.min() > -0.003
        assert delays.max() < 1 / rate  # a flash shows from the next frame on
        heard = _clicks(fitted.waveform)
        np.testing.assert_allclose(heard[: np.count_nonzero(clicks < end)], clicks[clicks < end], atol=0.004)


@pytest.mark.parametrize(
    ("frames", "rate", "auto_scale", "how", "detail"),
    [
        (72, 24, False, "exact", "3.00 s at 24 fps, as needed"),
        (72, 24, True, "exact", "3.00 s at 24 fps, as needed"),
        (71, 24, False, "trimmed", "trimmed from 3.00 s at 24 fps to 2.96 s at 24 fps (71 frames)"),
        (71, 24, True, "retimed", "sped up from 3.00 s at 24 fps to 2.96 s at 24 fps (71 frames)"),
        (73, 24, True, "retimed", "slowed down from 3.00 s at 24 fps to 3.04 s at 24 fps (73 frames)"),
        (60, 20, False, "resampled", "resampled from 3.00 s at 24 fps to 3.00 s at 20 fps (60 frames)"),
        (30, 10, True, "resampled", "resampled from 3.00 s at 24 fps to 3.00 s at 10 fps (30 frames)"),
        (72, 23.9, False, "exact", "3.00 s at 24 fps, as needed"),  # a quarter of a frame short
        (60, 60, False, "trimmed", "to 1.00 s at 60 fps (60 frames)"),
    ],
)
def test_what_is_done_is_told(
    tmp_path: Path, make_video, frames: int, rate: float, auto_scale: bool, how: str, detail: str
) -> None:
    make_video(tmp_path / "a.mp4")
    fitted = _fit(tmp_path / "a.mp4", frames, rate, auto_scale=auto_scale)
    assert fitted.how == how
    assert detail in fitted.detail
    assert fitted.warnings == ()


@pytest.mark.parametrize(("frames", "rate"), [(73, 24), (73, 60), (121, 24), (90, 30)])
def test_too_few_frames(tmp_path: Path, make_video, frames: int, rate: float) -> None:
    """Frames of its own, whatever the rate: 90 frames at 30/s last as long as the video, but it has 72."""
    make_video(tmp_path / "a.mp4")
    short = _fit_or_not(tmp_path / "a.mp4", frames, rate)
    assert isinstance(short, TooShort)
    assert short.frames == 72
    expected = f"too short: it has 72 frames, and {frames} are needed; auto_scale_input would slow it down"
    assert short.detail == expected


def test_enough_frames_that_last_less_than_the_target_are_slowed_down(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "a.mp4", rate=48, events=(0.5, 1.0))  # 72 frames in 1.5 s
    fitted = _fit(tmp_path / "a.mp4", 60, 24)
    assert (fitted.how, fitted.warnings) == ("retimed", ())
    assert fitted.detail == "slowed down from 1.50 s at 48 fps to 2.50 s at 24 fps (60 frames), the sound at its pitch"
    np.testing.assert_allclose(_clicks(fitted.waveform), np.array([0.5, 1.0]) * 2.5 / 1.5, atol=0.004)


def test_a_scene_of_it(tmp_path: Path, make_video, numbers) -> None:
    make_video(tmp_path / "a.mp4")
    plain = _fit(tmp_path / "a.mp4", 17, 24, start=1.0, end=2.0)
    assert numbers(plain.frames) == list(range(24, 41))
    np.testing.assert_allclose(_clicks(plain.waveform), [0.25], atol=0.003)
    whole = _fit(tmp_path / "a.mp4", 48, 24, auto_scale=True, start=1.0, end=2.0)
    assert numbers(whole.frames) == [24 + index // 2 for index in range(48)]
    np.testing.assert_allclose(_clicks(whole.waveform), [0.5], atol=0.004)
    short = _fit_or_not(tmp_path / "a.mp4", 25, 24, start=1.0, end=2.0)
    assert isinstance(short, TooShort)
    assert short.frames == 24


@pytest.mark.parametrize(("frames", "rate"), [(107, 24), (49, 24)])
def test_the_pitch_is_kept(tmp_path: Path, tones, peak_hertz, frames: int, rate: float) -> None:
    picture = np.zeros((72, 64, 96, 3), np.uint8)
    write_video(tmp_path / "a.mkv", picture, 24, tones(440, 660))
    waveform = _fit(tmp_path / "a.mkv", frames, rate, auto_scale=True).waveform
    assert [peak_hertz(waveform, channel) for channel in (0, 1)] == pytest.approx([440, 660], abs=0.3)


def test_variable_frame_rate_is_made_even(tmp_path: Path, make_video, numbers) -> None:
    times = np.concatenate([np.arange(30) / 30, 1 + np.arange(20) / 10])
    make_video(tmp_path / "a.mp4", times=times, sound_seconds=3.0)
    fitted = _fit(tmp_path / "a.mp4", 50, 20)
    assert fitted.how == "trimmed"
    expected = np.searchsorted(times, np.arange(50) / 20 + 1e-6, side="right") - 1
    assert numbers(fitted.frames) == expected.tolist()
    np.testing.assert_allclose(_flashes(fitted.frames, 20), [0.5, 1.3, 2.0])  # 1.25 is shown from 1.3 on


def test_sound_shorter_or_longer_than_the_picture(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "short.mp4", sound_seconds=1.5)
    for frames, auto_scale in [(72, False), (107, True)]:
        fitted = _fit(tmp_path / "short.mp4", frames, 24, auto_scale=auto_scale)
        (warning,) = fitted.warnings
        assert warning.endswith("s of sound for 3.00 s of picture: the rest is silence")
        half = fitted.waveform.samples.shape[1] // 2
        assert len(_clicks(fitted.waveform)) == 2
        assert np.abs(fitted.waveform.samples[:, half + 4800 :]).max() < 1e-3
    make_video(tmp_path / "long.mp4", sound_seconds=5.0, events=(0.5, 2.0, 4.0))
    fitted = _fit(tmp_path / "long.mp4", 107, 24, auto_scale=True)
    assert fitted.warnings == ()
    np.testing.assert_allclose(_clicks(fitted.waveform), np.array([0.5, 2.0]) * 107 / 72, atol=0.004)


@pytest.mark.parametrize("auto_scale", [False, True])
def test_sound_comes_at_the_wanted_rate(tmp_path: Path, tones, peak_hertz, auto_scale: bool) -> None:
    write_video(tmp_path / "a.mkv", np.zeros((72, 64, 96, 3), np.uint8), 24, tones(440, 660, sample_rate=44_100))
    waveform = _fit(tmp_path / "a.mkv", 65, 24, auto_scale=auto_scale).waveform
    assert [peak_hertz(waveform, channel) for channel in (0, 1)] == pytest.approx([440, 660], abs=0.3)


@pytest.mark.parametrize(("frames", "speed"), [(241, "0.3"), (9, "8")])
def test_extreme_speeds_are_warned_of(tmp_path: Path, make_video, frames: int, speed: str) -> None:
    make_video(tmp_path / "a.mp4")
    (warning,) = _fit(tmp_path / "a.mp4", frames, 24, auto_scale=True).warnings
    assert f"played at {speed} times its speed" in warning


def test_silent_video_is_refused(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "a.mp4", codecs=("libx264", None))
    with pytest.raises(MediaError, match="there is no audio track in it"):
        _fit(tmp_path / "a.mp4", 72, 24)


def test_cut_off_video_is_warned_of(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "a.mkv", codecs=("ffv1", "flac"))
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 6 // 10])
    fitted = _fit(tmp_path / "cut.mkv", 24, 24)
    assert "cut short: its header says 3.00 s" in fitted.warnings[0]


def test_what_would_be_played_a_hundred_times_faster_is_refused(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "a.mp4", times=[*np.arange(50) / 24, 660.0], sound_seconds=1.0)
    with pytest.raises(
        MediaError, match="its 660 s would be played 323 times faster: cut it, or turn auto_scale_input"
    ):
        _fit(tmp_path / "a.mp4", 49, 24, auto_scale=True)
    assert _fit(tmp_path / "a.mp4", 49, 24).how == "trimmed"
