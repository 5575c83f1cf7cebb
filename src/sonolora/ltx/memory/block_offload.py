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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError

DEVICE_SLOTS = 2


class _Place(NamedTuple):
    """Where a tensor lies among the storages of its block."""

    storage: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def offload_blocks(blocks: Sequence[nn.Module], tensors: Sequence[Sequence[Tensor]], device: torch.device) -> None:
    """Move each block's `tensors` to host memory, and copy them to `device` before each call of the block.

    Tensors that share memory keep sharing it. Raises `CheckpointError` when those of the blocks are not alike.
    """
    offloaded = _OffloadedBlocks(tensors, device)
    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(offloaded.before_call, index))


class _OffloadedBlocks:
    """`slot_blocks` is the block in each device slot; block i always uses slot i mod 2.

    What is copied are whole storages, as bytes; the tensors are views of them.
    """

    def __init__(self, tensors: Sequence[Sequence[Tensor]], device: torch.device) -> None:
        self.tensors = tensors
        places = [_places(of_block) for of_block in tensors]
        if any(place != places[0] for place in places):
            raise CheckpointError("the blocks of this base differ in shape or dtype: they cannot be offloaded")
        self.cuda = device.type == "cuda"
        self.device = device
        self.host: list[list[Tensor]] = []
        self.host_views: list[list[Tensor]] = []
        for of_block in tensors:
            # Storage by storage: pinned memory is allocated in powers of two, and the large ones are of such sizes.
            storages = [storage.cpu() for storage in _storages(of_block).values()]
            self.host.append([storage.pin_memory() if self.cuda else storage for storage in storages])
            self.host_views.append(_views(self.host[-1], places[0]))
            _set_data(of_block, self.host_views[-1])
        self.slots = [[torch.empty_like(one, device=device) for one in self.host[0]] for _ in range(DEVICE_SLOTS)]
        self.slot_views = [_views(slot, places[0]) for slot in self.slots]
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
        _set_data(self.tensors[index], self.slot_views[index % DEVICE_SLOTS])

    def fetch(self, index: int) -> None:
        """Copy a block into its slot; the tensors of the block it replaces point to host memory again."""
        slot = index % DEVICE_SLOTS
        replaced, self.slot_blocks[slot] = self.slot_blocks[slot], index
        if replaced == index:
            return
        if replaced is not None:
            _set_data(self.tensors[replaced], self.host_views[replaced])
        if not self.cuda:
            _copy(self.slots[slot], self.host[index])
            return
        # All work on the replaced block was enqueued before this call.
        self.copy_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.copy_stream):
            _copy(self.slots[slot], self.host[index])
            self.ready[slot].record(self.copy_stream)


def _storages(tensors: Sequence[Tensor]) -> dict[int, Tensor]:
    """The bytes of every storage that the tensors are views of, by its identity, in the order of the tensors."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
    return storages


def _places(tensors: Sequence[Tensor]) -> list[_Place]:
    order = {identity: index for index, identity in enumerate(_storages(tensors))}
    return [
        _Place(order[one.untyped_storage()._cdata], one.dtype, one.shape, one.stride(), int(one.storage_offset()))
        for one in tensors
    ]


def _views(storages: Sequence[Tensor], places: Sequence[_Place]) -> list[Tensor]:
    return [storages[one.storage].view(one.dtype).as_strided(one.shape, one.strides, one.offset) for one in places]


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _set_data(tensors: Sequence[Tensor], storage: Sequence[Tensor]) -> None:
    for tensor, data in zip(tensors, storage, strict=True):
        tensor.data = data
