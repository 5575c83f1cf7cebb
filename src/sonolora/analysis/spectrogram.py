"""Plots of single sounds. In: a waveform and a title. Out: a PNG with the waveform above its mel spectrogram."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from sonolora.analysis.mel import hertz_to_mel, mel_filters
from sonolora.analysis.save_figure import save_figure
from sonolora.media.audio import Waveform

_WIDTH, _HEIGHT, _DPI = 10.0, 5.0, 100  # inches: 1000 x 500 pixels
_TEXT, _SMALL, _MAX_TICKS = 17, 15, 5  # points
_COLUMNS = 850  # along time: about one for each pixel
_BANDS = 128
_WINDOW_SECONDS = 0.04
# Low bands at the bottom; one fixed colour scale, in dBFS, so that plots can be compared.
MEL_IMAGE: Mapping[str, Any] = {"origin": "lower", "cmap": "magma", "vmin": -90.0, "vmax": -10.0}
_TICKS_HZ = (100, 300, 500, 1000, 2000, 4000, 7000, 8000, 12_000, 16_000, 24_000, 32_000)


def draw_waveform_and_mel(path: Path, waveform: Waveform, title: str) -> None:
    """Write a PNG of 1000 x 500 pixels: time in seconds, mel axis up to Nyquist, levels in dBFS.

    The waveform, scaled to its peak, shows the extremes over all channels (light) and their RMS (dark). The
    spectrogram shows the mean power of the channels, in which a full-scale sine reads 0 dBFS.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained", facecolor="white")
    wave_axes, mel_axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.2))
    figure.suptitle(textwrap.shorten(title, 70, placeholder=" …"), fontsize=_TEXT, parse_math=False)

    times, low, high, rms = envelope(waveform)
    wave_axes.fill_between(times, low, high, color="#a6bddb", linewidth=0)
    wave_axes.fill_between(times, -rms, rms, color="#2b5c8a", linewidth=0)
    wave_axes.axhline(0, color="#2b5c8a", linewidth=0.6)
    top = max(float(np.abs(low).max()), float(np.abs(high).max()), 1e-6)
    wave_axes.set(ylim=(-1.05 * top, 1.05 * top), yticks=())
    wave_axes.set_ylabel(f"peak\n{20 * np.log10(top):.0f} dBFS", fontsize=_SMALL)
    wave_axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    wave_axes.set_axisbelow(True)

    image = _show_mel(mel_axes, waveform)
    mel_axes.set_xlabel("seconds", fontsize=_SMALL)
    mel_axes.set_xlim(0, waveform.seconds)
    _finish(path, figure, (wave_axes, mel_axes), image)


def _show_mel(axes: Axes, waveform: Waveform) -> AxesImage:
    levels, hop_seconds = mel_dbfs(waveform)  # (bands, columns)
    top = hertz_to_mel(waveform.sample_rate / 2)
    image = axes.imshow(
        levels,
        aspect="auto",
        **MEL_IMAGE,
        extent=(-hop_seconds / 2, (levels.shape[1] - 0.5) * hop_seconds, 0.0, top),
    )
    axes.set_yticks(*mel_ticks(waveform.sample_rate, _MAX_TICKS))
    axes.set_ylim(0, top)
    return image


def mel_ticks(sample_rate: int, count: int) -> tuple[list[float], list[str]]:
    """Places on the mel axis up to Nyquist and their labels, at most `count`, as even as round numbers allow."""
    known = [hertz for hertz in _TICKS_HZ if hertz <= 0.97 * sample_rate / 2]
    places = [float(hertz_to_mel(hertz)) for hertz in known]
    least = float(hertz_to_mel(sample_rate / 2)) / (count + 1)
    chosen: list[int] = []
    for index in reversed(range(len(known))):
        if not chosen or places[chosen[-1]] - places[index] >= least:
            chosen.append(index)
    chosen.reverse()
    labels = [f"{known[i] / 1000:g} kHz" if known[i] >= 1000 else f"{known[i]} Hz" for i in chosen]
    return [places[index] for index in chosen], labels


def _finish(path: Path, figure: Figure, all_axes: Sequence[Axes], image: AxesImage) -> None:
    bar = figure.colorbar(image, ax=list(all_axes), pad=0.01, fraction=0.03, extend="both")
    bar.set_label("dBFS", fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL - 2)
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=_SMALL)
    save_figure(path, figure)


def envelope(waveform: Waveform) -> tuple[NDArray[np.float64], ...]:
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
