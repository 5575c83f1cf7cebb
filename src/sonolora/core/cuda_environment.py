"""Environment variables of CUDA's allocators and of cuBLAS. To be set before torch is loaded; harmless without a card.

What the user has set stays as it is.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import MutableMapping
from importlib.metadata import version

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS gives the same bits each time
EXPANDABLE = "expandable_segments:True"
_EXACT_PINNING = "pinned_max_round_threshold_mb"
_EXACT_ABOVE_MB = 1
_EXACT_SINCE = (2, 13)  # torch; earlier ones refuse the option


def configure_cuda(environment: MutableMapping[str, str] = os.environ) -> None:
    """Expandable segments, pinned memory without rounding to powers of two, and a workspace for exact repetition."""
    environment.setdefault(CUBLAS_WORKSPACE, DETERMINISTIC_WORKSPACES[0])
    if sys.platform == "linux" and not any(name in environment for name in ALLOCATOR):
        exact = f",{_EXACT_PINNING}:{_EXACT_ABOVE_MB}" if _torch_version() >= _EXACT_SINCE else ""
        environment[ALLOCATOR[0]] = EXPANDABLE + exact


def allocator_options(environment: MutableMapping[str, str] = os.environ) -> str:
    """The options of the CUDA allocator; empty if there are none."""
    return next((environment[name] for name in ALLOCATOR if name in environment), "")


def pinned_bytes(size: int, environment: MutableMapping[str, str] = os.environ) -> int:
    """Host memory that a pinned tensor of `size` bytes takes. By default torch rounds up to a power of two."""
    found = re.search(rf"{_EXACT_PINNING}:(\d+)", allocator_options(environment))
    if found and size > int(found[1]) << 20:
        return size
    return 1 << (size - 1).bit_length()


def _torch_version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version("torch"))[:2]))
