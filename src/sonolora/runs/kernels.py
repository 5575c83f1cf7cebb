"""On the meta device, the way that a real device takes through attention and norms.

There torch writes the scores of attention out, as no device does that trains here: at the film's 6,912 tokens that
would be counted as hundreds of gigabytes. Within `kernels_of(device)` tensors on meta go through the fused attention
of the CPU or of CUDA. CUDA has a fused root-mean-square norm, too, which keeps its input and one number a row; the
CPU's is composed of single operations, as meta's is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class kernels_of(TorchFunctionMode):  # noqa: N801 - used like a function, in `with`
    """Within it, meta tensors take the way of tensors on a device of this type."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._cuda = device_type == "cuda"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and not kwargs and args[0].is_meta:
            aten = torch.ops.aten
            fused = aten._scaled_dot_product_flash_attention if self._cuda else None
            return (fused or aten._scaled_dot_product_flash_attention_for_cpu)(*args)[0]
        if func is F.rms_norm and self._cuda and args[0].is_meta:
            return _fused_rms_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _fused_rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:  # noqa: ARG001
    return _FusedRMSNorm.apply(x, weight)  # type: ignore[no-any-return,no-untyped-call]


class _FusedRMSNorm(torch.autograd.Function):
    """What the fused kernel makes and keeps, without the numbers. The weight is frozen."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        inverse = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        context.save_for_backward(x, weight, inverse)
        return torch.empty_like(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return torch.empty_like(gradient), None
