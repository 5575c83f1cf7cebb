"""Counts how many bytes of tensors are alive while some code runs, and the peak.

In: a device type; on `meta` tensors have shapes and no data, so that what does not fit this machine can be counted too.
Out: `now` and `peak`, as an allocator without rounding and fragmentation would have them. Tensors that existed before
do not count, and a kernel's own workspace is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context manager that counts each storage an operation allocates, until the last tensor on it is gone."""

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._device_type = device_type
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> Allocations:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def take_peak(self) -> int:
        """The peak since the last call."""
        peak, self.peak = self.peak, self.now
        return peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in self._storages((args, kwargs)):
            self._register(storage, 0)
        result = func(*args, **kwargs)
        for storage in self._storages(result):
            self._register(storage, storage.nbytes())
        return result

    def _storages(self, tree: Any) -> Iterator[torch.UntypedStorage]:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device_type:
                yield leaf.untyped_storage()

    def _register(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)
