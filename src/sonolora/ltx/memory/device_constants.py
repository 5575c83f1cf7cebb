"""Tensors that are the same at every step, brought to a device once: the host would wait for each such copy."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor


def on_device(make: Callable[..., Tensor], *arguments: Hashable, device: torch.device, **named: Hashable) -> Tensor:
    """What a function makes of these arguments, on a device, made once; not to be written to."""
    # On meta it is always new: what is allocated there is counted.
    return (_made if device.type == "meta" else _kept)(make, *arguments, device=device, **named)


def _made(make: Callable[..., Tensor], *arguments: Hashable, device: torch.device, **named: Hashable) -> Tensor:
    with torch.inference_mode(False):  # so that training can use what a preview made
        return make(*arguments, **named).to(device)


_kept = lru_cache(maxsize=64)(_made)
