"""Writing a figure as a PNG. In: a matplotlib figure of fixed size. Out: the complete file, or none."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sonolora.core.atomic_files import atomic_write

_COMPRESSION = 4  # half the time of the default, 6, for files that are hardly larger


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG of the figure's size at its own resolution. `savefig` would lay it out and draw it twice."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A prompt may be in a script that the built-in font lacks: boxes in the title are better than a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    with atomic_write(path) as temporary:
        Image.fromarray(pixels[..., :3]).save(temporary, "PNG", compress_level=_COMPRESSION)
