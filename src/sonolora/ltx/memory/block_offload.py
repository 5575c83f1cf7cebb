"""Blocks that wait in the host's memory, and are on the device two at a time: one computes, the next one comes.

In: the blocks of a frozen network, before adapters are put on them; those are on the device and stay there.
Out: the same network, to be used as before. In a forward pass the block that comes is the one behind, in a backward
pass the one in front; there each block is computed again (`WeightPolicy.recomputed`), so that no operation refers to a
block's tensors once the next but one is copied over them. Only then they are in the host's memory again: the backward
pass reads some of them when the block's own call is over.

On a card the copies go by a stream of their own, from pinned memory; that has not yet run on a GPU. Where the device is
a CPU the blocks are copied in the same order to the same two places. Not to be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError

DEVICE_SLOTS = 2


def stream_blocks(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Put the blocks' tensors in the host's memory, and make every call of a block bring them to `device` first.

    Raises `CheckpointError` when the blocks are not all alike.
    """
    streamed = _OffloadedBlocks(blocks, device)
    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(streamed.enter, index))


class _OffloadedBlocks:
    """`held` says which block's tensors lie in each of the slots; block i always goes to slot i mod 2."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.frozen = [[*block.parameters(), *block.buffers()] for block in blocks]
        if len({tuple((tensor.shape, tensor.dtype) for tensor in tensors) for tensors in self.frozen}) > 1:
            raise CheckpointError("the blocks of this base are not all alike: they cannot be streamed")
        self.cuda = device.type == "cuda"
        self.device = device
        for tensor in (tensor for tensors in self.frozen for tensor in tensors):
            # Tensor by tensor: pinned memory is given out in powers of two, which the large ones are.
            host = tensor.data.cpu()
            tensor.data = host.pin_memory() if self.cuda else host
        self.host = [[tensor.data for tensor in tensors] for tensors in self.frozen]
        self.slots = [[torch.empty_like(tensor, device=device) for tensor in self.host[0]] for _ in range(DEVICE_SLOTS)]
        self.held: list[int | None] = [None] * DEVICE_SLOTS
        self.last = 0
        if self.cuda:
            self.side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.ready = [torch.cuda.Event() for _ in range(DEVICE_SLOTS)]  # type: ignore[no-untyped-call]

    def enter(self, index: int, *_: Any) -> None:
        """Have a block's tensors on the device, and the next one's on their way."""
        backward = index == self.last - 1
        following, self.last = index - 1 if backward else index + 1, index
        self.fetch(index)
        if 0 <= following < len(self.host):
            self.fetch(following)
        if self.cuda:
            torch.cuda.current_stream(self.device).wait_event(self.ready[index % DEVICE_SLOTS])
        _point(self.frozen[index], self.slots[index % DEVICE_SLOTS])

    def fetch(self, index: int) -> None:
        """Copy a block over the one in its slot, whose tensors are those in the host's memory again."""
        slot = index % DEVICE_SLOTS
        leaving, self.held[slot] = self.held[slot], index
        if leaving == index:
            return
        if leaving is not None:
            _point(self.frozen[leaving], self.host[leaving])
        if not self.cuda:
            _copy(self.slots[slot], self.host[index])
            return
        # All that uses the slot's last block has been handed to the device before the call that fetches over it.
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            _copy(self.slots[slot], self.host[index])
            self.ready[slot].record(self.side)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _point(tensors: Sequence[Tensor], where: Sequence[Tensor]) -> None:
    for tensor, there in zip(tensors, where, strict=True):
        tensor.data = there
