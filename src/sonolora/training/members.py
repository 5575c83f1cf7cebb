"""The state of some of the LoRAs that are trained at once, from which they continue without the others.

In: a trainer's state and its layout, and which members go on. Out: the state of a trainer that has those alone; its
rank may be lower, since what pads a rank is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sonolora.training.state import Layout, matrices_of
from sonolora.training.trainer import member_prefix


def state_of_members(
    state: Mapping[str, Tensor], layout: Layout, kept: Sequence[int], new_layout: Layout
) -> dict[str, Tensor]:
    """The state of `kept`, numbers of members in `layout`, as `new_layout` has it."""
    result = {}
    for part, matrices in matrices_of(state, layout).items():
        renamed = {
            f"{member_prefix(position, len(kept))}{name.removeprefix(f'{member}.')}": matrix
            for position, member in enumerate(kept)
            for name, matrix in matrices.items()
            if name.startswith(f"{member}.")
        }
        taken = [renamed[name][:rows, :columns] for name, (rows, columns) in new_layout.items()]
        result[part] = torch.cat([matrix.flatten() for matrix in taken])
    return result
