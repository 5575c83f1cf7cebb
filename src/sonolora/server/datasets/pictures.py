"""What a page shows of a sound: its waveform as numbers, its spectrogram as a PNG, and a form that browsers play.

In: a file. Out: figures and files in a cache beside the data, by the file's path, size and time of change.
All spectrograms have one scale of time-frequency resolution and level, so they can be compared.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonolora.core.atomic_files import atomic_write, make_folder, write_json
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.video import VIDEO_EXTENSIONS, probe_video
from sonolora.media.write_audio import write_wav

PEAKS = 600  # columns of a waveform
_COLUMNS = 900  # of a spectrogram, at most
_PLAYED = frozenset({".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac", ".mp4", ".webm", ".mov", ".m4v"})
_MAX_SECONDS = 3600.0
_SAMPLE_RATE = 48_000
_one_at_a_time = threading.Semaphore(1)  # beside a server on two cores


@dataclass(frozen=True)
class Shape:
    """`low`, `high`: the extremes of each column, from -1 to 1, all channels together."""

    seconds: float
    sample_rate: int
    channels: int
    peak_dbfs: float | None
    lufs: float | None
    low: list[float]
    high: list[float]


class Pictures:
    """A cache in a folder. Raises `MediaError` for what cannot be decoded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known_seconds(self, path: Path) -> float | None:
        """The length, if it was measured before."""
        try:
            return float(json.loads(self._file(path, "json").read_bytes())["seconds"])
        except (OSError, ValueError, KeyError):
            return None

    def shape(self, path: Path) -> Shape:
        """Its length, level and waveform."""
        cached = self._file(path, "json")
        if not cached.exists():
            self._make(path)
        return Shape(**json.loads(cached.read_bytes()))

    def spectrogram(self, path: Path) -> Path:
        """The PNG: width is time, the whole sound; height is the mel scale up to half the sample rate."""
        cached = self._file(path, "png")
        if not cached.exists():
            self._make(path)
        return cached

    def playable(self, path: Path) -> Path:
        """The file itself where browsers play it, else a WAV of it."""
        if path.suffix.lower() in _PLAYED:
            return path
        cached = self._file(path, "wav")
        if not cached.exists():
            with _one_at_a_time:
                write_wav(cached, _decoded(path))
        return cached

    def _make(self, path: Path) -> None:
        import matplotlib.image  # takes a second, which the server's start should not

        from sonolora.analysis.measure import loudness
        from sonolora.analysis.spectrogram import MEL_IMAGE, mel_dbfs
        from sonolora.media.audio import peak, resample

        with _one_at_a_time:
            if self._file(path, "json").exists() and self._file(path, "png").exists():
                return
            sound = _decoded(path)
            highest = peak(sound)
            lufs = loudness(sound)
            low, high = _extremes(sound)
            shape = Shape(
                round(sound.seconds, 4),
                sound.sample_rate,
                sound.channels,
                round(20 * float(np.log10(highest)), 1) if highest > 0 else None,
                round(lufs, 1) if np.isfinite(lufs) else None,
                low,
                high,
            )
            levels, _ = mel_dbfs(resample(sound, _SAMPLE_RATE))  # the same frequencies in all pictures
            with atomic_write(self._file(path, "png")) as temporary:
                matplotlib.image.imsave(temporary, _narrowed(levels), format="png", **MEL_IMAGE)
            write_json(self._file(path, "json"), asdict(shape))

    def _file(self, path: Path, kind: str) -> Path:
        stat = path.stat()
        key = hashlib.sha256(f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}".encode("utf-8", "backslashreplace"))
        name = key.hexdigest()[:32]
        folder = self._folder / name[:2]
        make_folder(folder)
        return folder / f"{name}.{kind}"


def _decoded(path: Path) -> Waveform:
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        from sonolora.media.soundtrack import MAX_SECONDS, decode_soundtrack

        info = probe_video(path)
        if not info.has_audio:
            return Waveform(np.zeros((1, max(1, round(info.seconds * 16000))), np.float32), 16000)
        return decode_soundtrack(path, 0.0, min(info.seconds, MAX_SECONDS)).waveform
    return decode_audio(path, seconds=_MAX_SECONDS).waveform


def _extremes(sound: Waveform) -> tuple[list[float], list[float]]:
    samples = sound.samples
    starts = np.unique(np.linspace(0, samples.shape[1], PEAKS, endpoint=False).astype(int))
    low = np.minimum.reduceat(samples.min(axis=0), starts)
    high = np.maximum.reduceat(samples.max(axis=0), starts)
    return [round(float(x), 3) for x in low], [round(float(x), 3) for x in high]


def _narrowed(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most so many columns: the loudest of those that become one."""
    if levels.shape[1] <= _COLUMNS:
        return levels
    starts = np.linspace(0, levels.shape[1], _COLUMNS, endpoint=False).astype(int)
    narrowed: NDArray[np.float64] = np.maximum.reduceat(levels, starts, axis=1)
    return narrowed
