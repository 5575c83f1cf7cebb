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
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class kernels_of(TorchFunctionMode):  # noqa: N801 - used like a function, in `with`
    """Within it, meta tensors take the way of tensors on a device of this type."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._cuda = device_type == "cuda"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return self._attention(*args, **kwargs)
        if func is F.rms_norm and self._cuda and args[0].is_meta:
            return _fused_rms_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: ARG002 - the shape of the output is that of the queries in any case
    ) -> Any:
        aten, how = torch.ops.aten, (dropout_p, is_causal)
        if not self._cuda:
            return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, *how, attn_mask=attn_mask, scale=scale)[0]
        if attn_mask is None:
            return aten._scaled_dot_product_flash_attention(q, k, v, *how, scale=scale)[0]
        # Flash attention takes no mask. Such calls are not differentiated here.
        return aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, False, *how, scale=scale)[0]


def always_as_on(device_type: str, module: nn.Module) -> None:
    """Have a module take that way on every call: a backward pass, which may call it again, is outside of all modes."""
    forward = module.forward

    def called(*args: Any, **kwargs: Any) -> Any:
        with kernels_of(device_type):
            return forward(*args, **kwargs)

    module.forward = called


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
