"""Pictures of sounds for people who compare them: one under the other on one time axis, large text, one loudness.

In: rows, each with a sound and its title. Out: a PNG of 1000 pixels in width that stays legible at 400.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sonolora.analysis.levels import amplified, gain_words, matching_gain_db
from sonolora.analysis.mel import hertz_to_mel
from sonolora.analysis.save_figure import save_figure
from sonolora.analysis.spectrogram import envelope, mel_dbfs, mel_ticks
from sonolora.core.frames import Span
from sonolora.media.audio import Waveform, resample

_WIDTH, _DPI = 10.0, 100  # inches: 1000 pixels
_TEXT, _SMALL = 22, 19  # points: 9 and 8 pixels high in a thumbnail of 400
_ROW, _WAVE_SHARE = 2.5, 0.28  # inches; of a row
_FILM_HEIGHT, _MAX_FRAMES = 1.3, 8
_TITLE_WIDTH = 62  # characters
_RANGE_DB = 70.0  # of the colours, below the loudest band of all rows
_SPAN = "#35d0ff"
_INK, _WAVE = "#1b1f24", "#2b5c8a"


@dataclass(frozen=True)
class Row:
    """A sound. `new`: the seconds that were generated; `borders`: where one clip ends and the next begins."""

    title: str
    sound: Waveform
    new: tuple[Span, ...] = ()
    borders: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class FilmStrip:
    """RGB frames (frames, height, width, 3), frames a second, and seconds at which something strikes."""

    frames: NDArray[np.uint8]
    frame_rate: float
    impacts: tuple[float, ...] = ()


def draw_sounds(
    path: Path, rows: Sequence[Row], title: str = "", film: FilmStrip | None = None, measure: int = -1
) -> list[float]:
    """Write the picture; all rows are shown as loud as row `measure`. Returns the gains in dB.

    Each row has the waveform, scaled to the sound, above its mel spectrogram. Rows share the time axis, the frequency
    range of the lowest sample rate, and the colour scale.
    """
    gains = [0.0 if row is rows[measure] else matching_gain_db(row.sound, rows[measure].sound) for row in rows]
    lowest = min(row.sound.sample_rate for row in rows)
    sounds = [resample(amplified(row.sound, gain), lowest) for row, gain in zip(rows, gains, strict=True)]
    seconds = max(sound.seconds for sound in sounds)
    heights = [_FILM_HEIGHT] if film is not None else []
    for _ in rows:
        heights += [_ROW * _WAVE_SHARE, _ROW * (1 - _WAVE_SHARE)]
    above = 0.5 + 0.42 * len(_wrapped(title)) if title else 0.1
    figure = Figure(
        figsize=(_WIDTH, sum(heights) + 0.5 * len(rows) + above + 0.5),
        dpi=_DPI,
        layout="constrained",
        facecolor="white",
    )
    if title:
        figure.suptitle("\n".join(_wrapped(title)), fontsize=_TEXT, color=_INK, parse_math=False)
    panels = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    if film is not None:
        _show_film(panels.pop(0), film, seconds)
    levels = [mel_dbfs(sound) for sound in sounds]
    loudest = max(float(np.max(shown)) for shown, _ in levels)
    for index, (row, sound, gain) in enumerate(zip(rows, sounds, gains, strict=True)):
        wave, mel = panels[2 * index], panels[2 * index + 1]
        _show_wave(wave, sound, row, gain)
        shown, hop = levels[index]
        _show_mel(mel, shown, hop, lowest, loudest)
        for axes in (wave, mel):
            _mark(axes, row, is_picture=axes is mel)
        if film is not None:
            for impact in film.impacts:
                wave.axvline(impact, color="#d1495b", linewidth=1.5)
        mel.tick_params(labelbottom=index == len(rows) - 1)
    panels[-1].set_xlim(0, max(seconds, 1e-3))
    panels[-1].set_xlabel("seconds", fontsize=_SMALL)
    panels[-1].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    save_figure(path, figure)
    return gains


def _show_wave(axes: Axes, sound: Waveform, row: Row, gain_db: float) -> None:
    times, low, high, rms = envelope(sound)
    top = max(float(np.abs(low).max()), float(np.abs(high).max()), 1e-6)
    axes.fill_between(times, low / top, high / top, color="#a6bddb", linewidth=0)
    axes.fill_between(times, -rms / top, rms / top, color=_WAVE, linewidth=0)
    axes.set(ylim=(-1.08, 1.08), yticks=[])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    peak_dbfs = 20 * np.log10(top) - gain_db
    shown = f", shown {gain_words(gain_db)}" if gain_words(gain_db) else ""
    said = f"peak {peak_dbfs:.0f} dBFS{shown}"
    axes.set_title(row.title, fontsize=_SMALL, loc="left", color=_INK, weight="bold", parse_math=False, pad=3)
    axes.set_title(said if peak_dbfs > -100 else "silent", fontsize=_SMALL - 4, loc="right", color="#59636e", pad=3)


def _show_mel(axes: Axes, levels: NDArray[np.float64], hop: float, sample_rate: int, loudest: float) -> None:
    top = hertz_to_mel(sample_rate / 2)
    axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest - _RANGE_DB,
        vmax=loudest,
        extent=(-hop / 2, (levels.shape[1] - 0.5) * hop, 0.0, top),
    )
    ticks, labels = mel_ticks(sample_rate, 4)
    axes.set_yticks(ticks, labels)
    axes.set_ylim(0, top)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_SMALL - 3)


def _mark(axes: Axes, row: Row, *, is_picture: bool) -> None:
    """Shade what was generated, and draw the borders of clips."""
    for start, end in row.new:
        if not is_picture:
            axes.axvspan(start, end, color=_SPAN, alpha=0.35, linewidth=0)
            continue
        for edge in (start, end):
            axes.axvline(edge, color=_SPAN, linewidth=2.5)
        axes.axvspan(start, end, ymin=0.965, color=_SPAN, linewidth=0)
    for border in row.borders:
        axes.axvline(border, color="white" if is_picture else "#9aa4af", linewidth=2, linestyle=(0, (4, 3)))


def _show_film(axes: Axes, film: FilmStrip, seconds: float) -> None:
    count, height, width = film.frames.shape[:3]
    shown = max(1, min(_MAX_FRAMES, count))
    each = seconds / shown
    box = axes.get_subplotspec()
    assert box is not None
    # As many columns of each frame as its place in the strip shows without distortion.
    ratio = _FILM_HEIGHT * seconds / (0.82 * _WIDTH)  # seconds for a square of the strip's height
    wanted = min(width, max(1, round(height * each / ratio)))
    left = (width - wanted) // 2
    for index in range(shown):
        at = min(count - 1, round((index + 0.5) * each * film.frame_rate))
        frame = film.frames[at, :, left : left + wanted]
        axes.imshow(frame, extent=(index * each, (index + 1) * each, 0, 1), aspect="auto")
    for impact in film.impacts:
        axes.axvline(impact, color="#d1495b", linewidth=2.5)
    axes.set(ylim=(0, 1), yticks=[])
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _wrapped(title: str) -> list[str]:
    lines = textwrap.wrap(" ".join(title.split()), _TITLE_WIDTH)
    return (
        lines if len(lines) <= 2 else [lines[0], textwrap.shorten(" ".join(lines[1:]), _TITLE_WIDTH, placeholder=" …")]
    )
