"""Plots of sounds. In: waveforms and titles. Out: a PNG with the waveform above its mel spectrogram, or with several
mel spectrograms below one another."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from sonolora.analysis.mel import hertz_to_mel, mel_filters
from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import Waveform, resample

_WIDTH, _HEIGHT, _DPI = 10.0, 5.0, 100  # inches: 1000 x 500 pixels
_COLUMNS = 850  # along time: about one for each pixel
_BANDS = 128
_WINDOW_SECONDS = 0.04
DBFS = (-90.0, -10.0)  # the colour scale: fixed, so that plots can be compared
_TICKS_HZ = (100, 300, 1000, 2000, 4000, 8000, 16_000, 32_000)


def draw_waveform_and_mel(path: Path, waveform: Waveform, title: str) -> None:
    """Write a PNG of 1000 x 500 pixels: time in seconds, mel axis up to Nyquist, levels in dBFS.

    The waveform shows the extremes over all channels (light) and their RMS (dark). The spectrogram shows the mean
    power of the channels, in which a full-scale sine reads 0 dBFS.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained", facecolor="white")
    wave_axes, mel_axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.2))
    figure.suptitle(textwrap.shorten(title, 110, placeholder=" …"), fontsize=11, parse_math=False)

    times, low, high, rms = _envelope(waveform)
    wave_axes.fill_between(times, low, high, color="#a6bddb", linewidth=0)
    wave_axes.fill_between(times, -rms, rms, color="#2b5c8a", linewidth=0)
    wave_axes.axhline(0, color="#2b5c8a", linewidth=0.6)
    wave_axes.set(ylim=(-1.05, 1.05), yticks=(-1, 0, 1), ylabel="amplitude")
    wave_axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    wave_axes.set_axisbelow(True)

    image = _show_mel(mel_axes, waveform)
    mel_axes.set(xlabel="seconds", xlim=(0, waveform.seconds))
    _finish(path, figure, (wave_axes, mel_axes), image)


def draw_mels(path: Path, waveforms: Mapping[str, Waveform]) -> None:
    """Write a PNG of the mel spectrograms of several sounds, by title, with a common time axis and colour scale.

    The sample rate of the first one sets the frequency range.
    """
    height = 0.6 + 2.2 * len(waveforms)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor="white")
    rows = figure.subplots(len(waveforms), 1, sharex=True, squeeze=False)[:, 0]
    sample_rate = next(iter(waveforms.values())).sample_rate
    for axes, (title, waveform) in zip(rows, waveforms.items(), strict=True):
        image = _show_mel(axes, resample(waveform, sample_rate))
        axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    rows[-1].set(xlabel="seconds", xlim=(0, max(waveform.seconds for waveform in waveforms.values())))
    _finish(path, figure, tuple(rows), image)


def _show_mel(axes: Axes, waveform: Waveform) -> AxesImage:
    levels, hop_seconds = mel_dbfs(waveform)  # (bands, columns)
    top = hertz_to_mel(waveform.sample_rate / 2)
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=DBFS[0],
        vmax=DBFS[1],
        extent=(-hop_seconds / 2, (levels.shape[1] - 0.5) * hop_seconds, 0.0, top),
    )
    ticks = [hertz for hertz in _TICKS_HZ if hertz <= waveform.sample_rate / 2]
    labels = [f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz" for hertz in ticks]
    axes.set_yticks([hertz_to_mel(hertz) for hertz in ticks], labels)
    axes.set_ylim(0, top)
    return image


def _finish(path: Path, figure: Figure, all_axes: Sequence[Axes], image: AxesImage) -> None:
    figure.colorbar(image, ax=list(all_axes), label="dBFS", pad=0.01, fraction=0.03, extend="both")
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # A prompt may be in a script that the built-in font lacks: boxes in the title are better than a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png")


def _envelope(waveform: Waveform) -> tuple[NDArray[np.float64], ...]:
    """Time in seconds, minimum, maximum and RMS over all channels, in at most `_COLUMNS` columns."""
    count = waveform.samples.shape[1]
    starts = np.unique(np.linspace(0, count, _COLUMNS, endpoint=False).astype(int))
    low = np.minimum.reduceat(waveform.samples.min(axis=0), starts)
    high = np.maximum.reduceat(waveform.samples.max(axis=0), starts)
    power = np.add.reduceat(np.square(waveform.samples, dtype=np.float64).mean(axis=0), starts)
    return starts / waveform.sample_rate, low, high, np.sqrt(power / np.diff(starts, append=count))


def mel_dbfs(waveform: Waveform) -> tuple[NDArray[np.float64], float]:
    """Band levels (bands, columns) in decibels of a full-scale sine, and the seconds between columns."""
    sample_rate, count = waveform.sample_rate, waveform.samples.shape[1]
    window = np.hanning(round(_WINDOW_SECONDS * sample_rate))
    hop = max(len(window) // 4, -(-count // (2 * _COLUMNS)))
    # Bins twice as dense as the window resolves: the lowest bands are so narrow that some would be empty.
    fft_size = max(512, 2 ** (int(np.ceil(np.log2(len(window)))) + 1))

    padded = np.pad(waveform.samples, ((0, 0), (len(window) // 2, len(window))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window), axis=1)[:, : count + 1 : hop]
    power = sum(np.abs(np.fft.rfft(channel * window, fft_size)) ** 2 for channel in frames)  # (columns, bins)
    # Parseval: the bins of a full-scale sine sum to fft_size / 4 * sum(window^2).
    power = np.asarray(power) * (4 / (fft_size * np.square(window).sum() * waveform.channels))
    levels = mel_filters(_BANDS, fft_size, sample_rate, equal_area=False) @ power.T  # (bands, columns)
    return 10 * np.log10(np.maximum(levels, 1e-12)), hop / sample_rate
