"""Computed sounds and videos, so that every expected figure has a formula behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sonolora.media.audio import Waveform

PeakHertz = Callable[[Waveform, int], float]
MakeVideo = Callable[..., None]


@pytest.fixture
def peak_hertz() -> PeakHertz:
    """peak_hertz(waveform, channel): the strongest frequency, to a fraction of a hertz."""

    def find(waveform: Waveform, channel: int) -> float:
        samples = waveform.samples[channel] * np.hanning(waveform.samples.shape[1])
        size = 1 << 20
        return float(np.abs(np.fft.rfft(samples, size)).argmax() * waveform.sample_rate / size)

    return find


VIDEO_CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "pcm_s16le"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".mkv": ("libvpx-vp9", "libopus"),
}
FLASH_SECONDS = 0.125


@pytest.fixture
def make_video() -> MakeVideo:
    """make_video(path, codecs=("libx264", "aac"), frames=72, rate=24, events=(0.5, 1.25, 2.0), ...)

    Its lower half holds the number of the frame in eight bars, the highest bit on the left. At each of the
    events the upper half turns white for 0.125 s and a click of 5 ms sounds. `times`, in seconds, makes the
    frame rate variable. `picture_start` and `sound_start` move the timestamps of what is otherwise the same.
    """

    def make(
        path: Path,
        *,
        codecs: tuple[str, str | None] | None = None,
        frames: int = 72,
        rate: int = 24,
        times: Sequence[float] | None = None,
        size: tuple[int, int] = (96, 64),
        events: Sequence[float] = (0.5, 1.25, 2.0),
        picture_start: float = 0.0,
        sound_start: float = 0.0,
        sound_seconds: float | None = None,
        gop: int = 12,
        options: dict[str, str] | None = None,
    ) -> None:
        picture_codec, sound_codec = codecs or VIDEO_CODECS[path.suffix]
        tick = Fraction(1, rate) if times is None else Fraction(1, 12_000)
        shown = np.arange(frames) / rate if times is None else np.asarray(times)
        with av.open(str(path), "w") as container:
            picture = container.add_stream(picture_codec, rate, {"g": str(gop), **(options or {})})
            picture.width, picture.height = size
            picture.pix_fmt = "yuv420p"
            picture.codec_context.time_base = tick
            if sound_codec:
                seconds = len(shown) / rate if sound_seconds is None else sound_seconds
                clicks = _clicks(seconds, events)
                sound = container.add_stream(sound_codec, 48_000, layout="stereo")
                frame = av.AudioFrame.from_ndarray(np.repeat(clicks, 2)[None], "flt", "stereo")
                frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
                frame.pts = round(sound_start * 48_000)
                container.mux(sound.encode(frame))
                container.mux(sound.encode(None))
            for number, seconds in enumerate(shown):
                frame = av.VideoFrame.from_ndarray(_numbered(number, seconds, size, events))
                frame.pts, frame.time_base = round((seconds + picture_start) / tick), tick
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))

    return make


def _clicks(seconds: float, events: Sequence[float]) -> NDArray[np.float32]:
    samples = np.zeros(round(seconds * 48_000), np.float32)
    for event in events:
        click = samples[round(event * 48_000) :][:240]
        click += 0.8 * np.sin(2 * np.pi * 1000 * np.arange(len(click)) / 48_000)
    return samples


def _numbered(number: int, seconds: float, size: tuple[int, int], events: Sequence[float]) -> NDArray[np.uint8]:
    width, height = size
    picture = np.full((height, width, 3), 40, np.uint8)
    if any(-1e-6 <= seconds - event < FLASH_SECONDS for event in events):
        picture[: height // 2] = 255
    bits = np.array([number >> bit & 1 for bit in range(7, -1, -1)])
    picture[height // 2 :] = 40 + 175 * bits[np.arange(width) * 8 // width][None, :, None]
    return picture


@pytest.fixture
def numbers() -> Callable[[NDArray[np.uint8]], list[int]]:
    """numbers(frames): the number that each frame of a video bears."""

    def read(frames: NDArray[np.uint8]) -> list[int]:
        _, height, width, _ = frames.shape
        bars = frames[:, height * 3 // 4, (2 * np.arange(8) + 1) * width // 16].mean(axis=2)  # (frames, 8)
        return [int(number) for number in (bars > 128) @ (1 << np.arange(7, -1, -1))]

    return read
