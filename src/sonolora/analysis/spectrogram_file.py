"""Spectrograms of players: pictures without margins, over which a page draws its own axis and playhead."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image

from sonolora.analysis.spectrogram import MEL_IMAGE, mel_dbfs
from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import Waveform


def write_spectrogram(path: Path, waveform: Waveform) -> None:
    """A PNG without margins: its width is the whole sound, and nothing else."""
    levels, _ = mel_dbfs(waveform)
    with atomic_write(path) as temporary:
        matplotlib.image.imsave(
            temporary,
            levels,
            format="png",
            **MEL_IMAGE,
            pil_kwargs={"compress_level": 1},  # noise does not get much smaller, whatever the level
        )
