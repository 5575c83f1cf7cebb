"""Tensors that are the same at every step, copied to each device once: every such copy would block the host."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor


def on_device(make: Callable[..., Tensor], *arguments: Hashable, device: torch.device, **named: Hashable) -> Tensor:
    """The cached result of `make(*arguments, **named)` on a device. Read-only."""
    # Never cached on meta, where allocations are counted.
    return (_make if device.type == "meta" else _cached)(make, *arguments, device=device, **named)


def _make(make: Callable[..., Tensor], *arguments: Hashable, device: torch.device, **named: Hashable) -> Tensor:
    with torch.inference_mode(False):  # training must be able to use a tensor made in a preview
        return make(*arguments, **named).to(device)


_cached = lru_cache(maxsize=64)(_make)
