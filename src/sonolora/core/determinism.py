"""Bit-identical repetition on a GPU. CPUs repeat themselves anyway, at an equal number of threads.

Without it a card sums some numbers in the order in which its threads finish: two runs of one seed, or a run that is
resumed and one that is not, then differ by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sonolora.core.cuda_environment import CUBLAS_WORKSPACE, DETERMINISTIC_WORKSPACES
from sonolora.core.errors import SonoloraError


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Within it, if enabled, every operation gives the same bits each time; one that cannot raises `RuntimeError`.

    Flash and memory-efficient attention then use their deterministic backward passes; cuDNN's has none. Raises
    `SonoloraError` for a cuBLAS workspace with which matrix products differ.
    """
    if not enabled:
        yield
        return
    workspace = os.environ.get(CUBLAS_WORKSPACE)
    if torch.cuda.is_available() and workspace not in DETERMINISTIC_WORKSPACES:
        raise SonoloraError(
            f"--deterministic needs {CUBLAS_WORKSPACE} to be {' or '.join(DETERMINISTIC_WORKSPACES)}, and it is "
            f"{workspace!r}: unset it, or set one of the two"
        )
    cudnn, attention = torch.backends.cudnn, torch.backends.cuda
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        cudnn.deterministic,
        cudnn.benchmark,
        attention.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
    )
    _set(True, False, True, False, False)
    try:
        yield
    finally:
        _set(*before)


def _set(algorithms: bool, fill: bool, convolutions: bool, benchmark: bool, cudnn_attention: bool) -> None:
    torch.use_deterministic_algorithms(algorithms)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = convolutions
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
