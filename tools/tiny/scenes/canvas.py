"""One picture to draw on: anti-aliased discs, boxes and strokes.

Places and sizes are in picture heights: x runs from 0 to `width` (the sides' ratio), y from 0 at the top to 1. Colours
are (red, green, blue) from 0 to 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Pixels = NDArray[np.floating[Any]]

WHITE: Colour = (1.0, 1.0, 1.0)
BLACK: Colour = (0.0, 0.0, 0.0)


class Canvas:
    """`pixels`: (height, width, 3) float32."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.scale = pixels.shape[0]
        self.width = pixels.shape[1] / pixels.shape[0]

    def disc(self, x: float, y: float, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        self.ellipse(x, y, radius, radius, colour, alpha)

    def ellipse(self, x: float, y: float, across: float, down: float, colour: Colour, alpha: float = 1.0) -> None:
        """An ellipse of the half-axes `across` and `down`."""
        where, right, below = self._around(x, y, max(across, down))
        inside = (1 - np.hypot(right / across, below / down)) * min(across, down)
        self._blend(where, inside, colour, alpha)

    def ring(self, x: float, y: float, across: float, down: float, line: float, colour: Colour, alpha: float) -> None:
        """The outline of an ellipse, `line` thick."""
        where, right, below = self._around(x, y, max(across, down) + line)
        off = np.abs(1 - np.hypot(right / across, below / down)) * min(across, down)
        self._blend(where, line / 2 - off, colour, alpha)

    def box(
        self, x: float, y: float, width: float, height: float, colour: Colour, angle: float = 0.0, alpha: float = 1.0
    ) -> None:
        """A box about its centre, turned by `angle` radians (clockwise as one sees it)."""
        where, right, below = self._around(x, y, math.hypot(width, height) / 2)
        along = right * math.cos(angle) + below * math.sin(angle)
        aside = below * math.cos(angle) - right * math.sin(angle)
        inside = np.minimum(width / 2 - np.abs(along), height / 2 - np.abs(aside))
        self._blend(where, inside, colour, alpha)

    def stroke(self, x0: float, y0: float, x1: float, y1: float, line: float, colour: Colour) -> None:
        """A line with round ends, `line` thick."""
        reach = math.hypot(x1 - x0, y1 - y0) / 2 + line
        where, right, below = self._around((x0 + x1) / 2, (y0 + y1) / 2, reach)
        half_x, half_y = (x1 - x0) / 2, (y1 - y0) / 2
        share = np.clip((right * half_x + below * half_y) / (half_x**2 + half_y**2 + 1e-12), -1, 1)
        self._blend(where, line / 2 - np.hypot(right - share * half_x, below - share * half_y), colour, 1.0)

    def _around(self, x: float, y: float, reach: float) -> tuple[tuple[slice, slice], Pixels, Pixels]:
        """The part of the picture within `reach` of a place, and how far right of and below it the pixels lie."""
        height, width = self.pixels.shape[:2]
        margin = reach * self.scale + 1
        rows = slice(max(0, int(y * self.scale - margin)), max(0, min(height, int(y * self.scale + margin) + 1)))
        columns = slice(max(0, int(x * self.scale - margin)), max(0, min(width, int(x * self.scale + margin) + 1)))
        right = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / self.scale - x
        below = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / self.scale - y
        return (rows, columns), right[None, :], below[:, None]

    def _blend(self, where: tuple[slice, slice], inside: Pixels, colour: Colour, alpha: float) -> None:
        """Paint where `inside`, the distance to the edge, is positive; half the colour on the edge itself."""
        cover = alpha * np.clip(inside * self.scale + 0.5, 0, 1)[..., None]
        part = self.pixels[where]
        part += cover * (np.asarray(colour, dtype=np.float32) - part)


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with a `share` of the `other`."""
    return (
        one[0] + share * (other[0] - one[0]),
        one[1] + share * (other[1] - one[1]),
        one[2] + share * (other[2] - one[2]),
    )
