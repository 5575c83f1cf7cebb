"""Block offload: weights stay in host memory, and two blocks at a time are on the device, one computing, one loading.

In: the blocks of a frozen network, before adapters are added; adapters stay on the device.
Out: the same network, used as before. The forward pass prefetches the next block, the backward pass the previous one.
Gradient checkpointing is required: it guarantees that no operation refers to a block's device tensors once another
block is copied over them. Parameters point back to host memory only at that moment, because the backward pass reads
some of them after the block's own call has returned.

On a GPU, copies run from pinned memory on their own stream; that has not yet run on a GPU. On a CPU the same copies run
in the same order. Cannot be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError

DEVICE_SLOTS = 2


def offload_blocks(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Move the blocks' tensors to host memory, and copy them to `device` before each call of a block.

    Raises `CheckpointError` when the blocks do not have the same shapes and dtypes.
    """
    offloaded = _OffloadedBlocks(blocks, device)
    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(offloaded.before_call, index))


class _OffloadedBlocks:
    """`slot_blocks` is the block in each device slot; block i always uses slot i mod 2."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.parameters = [[*block.parameters(), *block.buffers()] for block in blocks]
        if len({tuple((tensor.shape, tensor.dtype) for tensor in tensors) for tensors in self.parameters}) > 1:
            raise CheckpointError("the blocks of this base differ in shape or dtype: they cannot be offloaded")
        self.cuda = device.type == "cuda"
        self.device = device
        for tensor in (tensor for tensors in self.parameters for tensor in tensors):
            # Tensor by tensor: pinned memory is allocated in powers of two, and the large tensors are such sizes.
            host = tensor.data.cpu()
            tensor.data = host.pin_memory() if self.cuda else host
        self.host = [[tensor.data for tensor in tensors] for tensors in self.parameters]
        self.slots = [[torch.empty_like(tensor, device=device) for tensor in self.host[0]] for _ in range(DEVICE_SLOTS)]
        self.slot_blocks: list[int | None] = [None] * DEVICE_SLOTS
        self.previous = 0
        if self.cuda:
            self.copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.ready = [torch.cuda.Event() for _ in range(DEVICE_SLOTS)]  # type: ignore[no-untyped-call]

    def before_call(self, index: int, *_: Any) -> None:
        """Put a block's tensors on the device, and start copying those of the block that follows."""
        backward = index == self.previous - 1
        next_block, self.previous = index - 1 if backward else index + 1, index
        self.fetch(index)
        if 0 <= next_block < len(self.host):
            self.fetch(next_block)
        if self.cuda:
            torch.cuda.current_stream(self.device).wait_event(self.ready[index % DEVICE_SLOTS])
        _set_data(self.parameters[index], self.slots[index % DEVICE_SLOTS])

    def fetch(self, index: int) -> None:
        """Copy a block into its slot; the parameters of the block it replaces point to host memory again."""
        slot = index % DEVICE_SLOTS
        replaced, self.slot_blocks[slot] = self.slot_blocks[slot], index
        if replaced == index:
            return
        if replaced is not None:
            _set_data(self.parameters[replaced], self.host[replaced])
        if not self.cuda:
            _copy(self.slots[slot], self.host[index])
            return
        # All work on the replaced block was enqueued before this call.
        self.copy_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.copy_stream):
            _copy(self.slots[slot], self.host[index])
            self.ready[slot].record(self.copy_stream)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _set_data(tensors: Sequence[Tensor], storage: Sequence[Tensor]) -> None:
    for tensor, data in zip(tensors, storage, strict=True):
        tensor.data = data
