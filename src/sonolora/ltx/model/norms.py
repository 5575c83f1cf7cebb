"""Root-mean-square norms with what follows them: modulation of the stream, or the rotation of queries and keys.

In: a stream, or queries and keys. Out: the same normed, and modulated or rotated. Each is one function with a backward
pass written by hand, in a third of autograd's operations. torch.compile and networks in training get ordinary ones.

B batch, T tokens, D width, G tensors that are normed alike, such as queries and keys.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.ltx.model.rope import Rotation, rotate

TRITON_NORMS = "SONOLORA_TRITON_NORMS"  # environment variable; any value turns the kernels on
_FUSED = "cuda", "meta"  # devices with kernels of torch for the norm and its gradient; meta stands for a GPU


def rms(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, without a weight."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift, computed in float32 if scale and shift are, in the dtype of `x`."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and _need_gradient(x, scale, shift)):
        return torch.addcmul(shift, x, scale).to(x.dtype)
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x))  # one operation also where the dtypes differ


def modulated_norm(x_BTD: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """rms(x) * scale + shift, (B, T, D); scale and shift (B, T or 1, D)."""
    if torch.compiler.is_compiling() or _need_gradient(scale, shift):
        return modulate(rms(x_BTD, eps), scale, shift)
    return _ModulatedNorm.apply(x_BTD, scale, shift, eps)  # type: ignore[no-any-return,no-untyped-call]


def heads_norm(x_BTGD: Tensor, weight_GD: Tensor, rotation: Rotation | None, heads: int, eps: float) -> Tensor:
    """Each of G tensors normed over all heads with a weight of its own, and rotated in float32; (B, T, G, D)."""
    if rotation is not None:
        rotation = rotation[0][:, :, None], rotation[1][:, :, None]
    if torch.compiler.is_compiling() or _need_gradient(weight_GD):
        normed = rms(x_BTGD, eps) * weight_GD
        return (normed if rotation is None else rotate(normed, rotation, heads)).to(x_BTGD.dtype)
    return _HeadsNorm.apply(x_BTGD, weight_GD, rotation, heads, eps)  # type: ignore[no-any-return,no-untyped-call]


@functools.cache
def _kernels() -> ModuleType | None:
    """`norm_kernels`, where Triton is installed and asked for: no GPU has run them yet."""
    if not os.environ.get(TRITON_NORMS):
        return None
    try:
        return importlib.import_module("sonolora.ltx.model.norm_kernels")
    except ImportError:
        return None


def _need_gradient(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        # The kernels know no vectors that the members of a sweep share.
        context.kernels = kernels = _kernels() if x.is_cuda and len(x) == len(scale) else None
        if kernels is not None:
            out, inverse = kernels.forward(x, scale, shift, eps)
            context.save_for_backward(x, scale, inverse)
            return cast(Tensor, out)
        normed, inverse = _rms_forward(x, eps)
        context.save_for_backward(x, scale, inverse)
        return torch.addcmul(shift, normed, scale, out=normed)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, inverse = context.saved_tensors
        if context.kernels is not None:
            return context.kernels.backward(gradient, x, scale, inverse), None, None, None
        return _rms_backward(torch.mul(gradient, scale, out=torch.empty_like(x)), x, inverse), None, None, None


class _HeadsNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, rotation: Rotation | None, heads: int, eps: float) -> Tensor:
        normed, inverse = _rms_forward(x, eps)
        context.heads = heads
        context.save_for_backward(x, weight, inverse, *(rotation or ()))
        if rotation is None:
            return torch.mul(normed, weight, out=normed)
        return rotate(normed * weight, rotation, heads, out=normed)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse, *rotation = context.saved_tensors
        if rotation:
            gradient = rotate(gradient, rotation, context.heads, -1)
        of_normed = torch.mul(gradient, weight, out=x.new_empty(x.shape))
        return _rms_backward(of_normed, x, inverse), None, None, None, None


def _rms_forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normed tensor, contiguous, and the inverse of its root mean square (..., 1)."""
    if x.device.type in _FUSED:
        normed, inverse = torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], None, eps)
        return normed, inverse
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(x, inverse, out=x.new_empty(x.shape)), inverse


def _rms_backward(gradient: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of x; that of the normed tensor may be overwritten."""
    if x.device.type in _FUSED:
        return torch.ops.aten._fused_rms_norm_backward(gradient, x, [x.shape[-1]], inverse, None, [True, False])[0]  # type: ignore[no-any-return]
    # n = x / rms: the gradient is (g - n * mean(g * n)) / rms
    along = (gradient * x).sum(-1, keepdim=True, dtype=torch.float32)
    along = along.mul_(inverse).mul_(inverse).div_(-x.shape[-1])
    return torch.addcmul(gradient, x, along, out=gradient).mul_(inverse)
