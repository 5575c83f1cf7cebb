"""Where the training examples of a run stay: on the device if they fit beside everything else, else on the host.

In: a run, and the sizes of its examples' tensors. Out: a device. From pinned host memory a step copies its examples
without waiting; not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sonolora.conditioning import distinct_tensors, move_examples
from sonolora.core.cuda_environment import pinned_bytes
from sonolora.core.errors import InputError
from sonolora.core.progress import Progress
from sonolora.data.prepared import Prepared
from sonolora.planning.available_memory import available_bytes
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.needs import count_needs
from sonolora.runs.run import Run

CPU = torch.device("cpu")


def place_examples(run: Run, prepared: Prepared, device: torch.device, progress: Progress) -> Prepared:
    """The training examples where they stay. Raises `InputError` when there is no room for them."""
    if device.type == "cpu":  # they are there already
        return prepared
    held_out = prepared.held_out
    examples = [*prepared.examples, *held_out.examples]
    sizes = [tensor.nbytes for tensor in distinct_tensors(examples)]
    place = example_device(run, device, sizes, "training_data_url", "give fewer or shorter clips")
    if place != device:
        progress.message(f"the training examples, {sum(sizes) / 1e9:,.2f} GB, stay in host memory")
    moved = iter(move_examples(examples, place, pin=place != device))
    return replace(
        prepared,
        examples=tuple(next(moved) for _ in prepared.examples),
        held_out=replace(held_out, examples=tuple(next(moved) for _ in held_out.examples)),
    )


def example_device(run: Run, device: torch.device, sizes: Sequence[int], field: str, advice: str) -> torch.device:
    """The device itself, or the CPU. `sizes`: bytes of each tensor, as it would be allocated.

    Raises `InputError` for `field`, with the advice, when neither has room.
    """
    if device.type == "cuda":
        needs = count_needs(BaseShape.of(run.base), run.mode, run.request, run.settings, device, members=run.members)
        if needs.peak + sum(sizes) <= available_bytes(device):
            return device
        sizes = [pinned_bytes(size) for size in sizes]
    if sum(sizes) > (free := available_bytes(CPU)):
        raise InputError.of(
            field,
            f"the training examples take {sum(sizes) / 1e9:,.1f} GB of the host's memory, where {free / 1e9:,.1f} GB "
            f"are free: {advice}",
        )
    return CPU
