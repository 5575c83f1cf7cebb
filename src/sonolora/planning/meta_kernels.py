"""Attention and norms on the meta device, with the memory use of the kernels of a real one.

On meta torch materialises the attention scores, as no device that trains here does: with the 6,912 tokens of a video
that would count as hundreds of gigabytes. Within `device_kernels(device_type)` meta tensors take the fused attention of
the CPU or of CUDA. CUDA also has a fused root-mean-square norm, which saves its input and one number per row; the CPU's
is composed of single operations, as meta's is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class device_kernels(TorchFunctionMode):  # noqa: N801 - used like a function, in `with`
    """Within it, operations on meta tensors are those that a device of this type would run."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._cuda = device_type == "cuda"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return self._attention(*args, **kwargs)
        if func is F.rms_norm and self._cuda and args[0].is_meta:
            return _fused_rms_norm(*args, **kwargs)
        if func is torch.ops.aten._fused_rms_norm and self._cuda and args[0].is_meta:
            return _fused_rms_norm_forward(*args)
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
        enable_gqa: bool = False,  # noqa: ARG002 - the output has the shape of the queries in any case
    ) -> Any:
        aten, options = torch.ops.aten, (dropout_p, is_causal)
        if not self._cuda:
            flash = aten._scaled_dot_product_flash_attention_for_cpu
            return flash(q, k, v, *options, attn_mask=attn_mask, scale=scale)[0]
        if attn_mask is None:
            return aten._scaled_dot_product_flash_attention(q, k, v, *options, scale=scale)[0]
        # Flash attention takes no mask. Such calls are not differentiated here.
        return aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, False, *options, scale=scale)[0]


def bind_device_kernels(module: nn.Module, device_type: str) -> None:
    """Run every call of a module within `device_kernels`: gradient checkpointing calls it from the backward pass, which
    is outside of all modes.
    """
    forward = module.forward

    def bound(*args: Any, **kwargs: Any) -> Any:
        with device_kernels(device_type):
            return forward(*args, **kwargs)

    module.forward = bound


def _fused_rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:  # noqa: ARG001
    return _FusedRMSNorm.apply(x, weight)  # type: ignore[no-any-return,no-untyped-call]


def _fused_rms_norm_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


class _FusedRMSNorm(torch.autograd.Function):
    """What the fused kernel allocates and saves, without the numbers. The weight is frozen."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        normed, inverse = _fused_rms_norm_forward(x)
        context.save_for_backward(x, weight, inverse)
        return normed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return torch.empty_like(gradient), None
