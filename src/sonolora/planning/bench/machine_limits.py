"""What a machine does at best, measured: the ceilings that a training step is held against.

In: a device and a dtype. Out: `Limits`.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sonolora.training.step_phases import clock

_TRIES = 5
_MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}


@dataclass(frozen=True)
class Limits:
    """Of one device and one dtype."""

    flops_per_second: float  # of a large matrix product in the dtype of the run
    bytes_per_second: float  # of a large copy, bytes read and bytes written together


def machine_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """The best of a few large matrix products and of a few large copies."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    size, copied = _MATMUL_SIZE[kind], _COPIED_BYTES[kind]
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    product = torch.empty_like(left)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Limits(
        flops_per_second=2 * size**3 / _best_seconds(device, lambda: torch.mm(left, right, out=product)),
        bytes_per_second=2 * copied / _best_seconds(device, lambda: target.copy_(source)),
    )


def _best_seconds(device: torch.device, work: Callable[[], Tensor]) -> float:
    mark, elapsed = clock(device)
    moments = [mark()]
    for _ in range(1 + _TRIES):
        work()
        moments.append(mark())
    return min(elapsed(*pair) for pair in pairwise(moments)) / 1000


def device_name(device: torch.device) -> str:
    """What a card or the processor calls itself, or at least its architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
