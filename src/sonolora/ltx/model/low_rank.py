"""The low-rank updates of several layers of one input, and how their factors lie in flat tensors.

G adapted layers of one shape, D outputs of each, R rank, I inputs.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""A and B of several layers, each flat."""


class LowRank(NamedTuple):
    """Updates B A of the first of several layers, and how their factors lie in flat tensors."""

    layers: int
    outputs: int  # of each layer
    rank: int
    inputs: int
    scale: float
    members: int = 1  # LoRAs that are trained at once, see `stacked_linear`

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of values in A and in B, of one member."""
        return self.layers * self.rank * self.inputs, self.layers * self.outputs * self.rank

    def matrices(self, factors: Factors) -> Factors:
        """A (G, R, I) and B (G, D, R), as views."""
        a, b = factors
        return a.view(self.layers, self.rank, self.inputs), b.view(self.layers, self.outputs, self.rank)
