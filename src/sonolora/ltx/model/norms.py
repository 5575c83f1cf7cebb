"""Root-mean-square norms with what follows them: modulation of the stream, or the rotation of queries and keys.

In: a stream, or queries and keys. Out: the same normed, and modulated or rotated. Each is one function with a backward
pass written by hand, in a third of autograd's operations; `plain_*` is the same in ordinary ones, for torch.compile to
fuse and for networks in training.

B batch, T tokens, D width, G tensors that are normed alike, such as queries and keys, H heads, K channels of a head,
F = K / 2 frequencies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.ltx.model.rope import Rotation

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
    """Each of G tensors normed over all heads with a weight of its own, and rotated; (B, T, G, H, K).

    The rotation is that of the first half of a head's channels against the second half, in float32.
    """
    if torch.compiler.is_compiling() or _need_gradient(weight_GD):
        return plain_heads_norm(x_BTGD, weight_GD, rotation, heads, eps)
    return _HeadsNorm.apply(x_BTGD, weight_GD, rotation, heads, eps)  # type: ignore[no-any-return,no-untyped-call]


def plain_heads_norm(x_BTGD: Tensor, weight_GD: Tensor, rotation: Rotation | None, heads: int, eps: float) -> Tensor:
    """`heads_norm` in ordinary operations."""
    normed = torch.unflatten(rms(x_BTGD, eps) * weight_GD, -1, (heads, -1))
    if rotation is None:
        return normed.to(x_BTGD.dtype)
    cos, sin = (part[:, :, None] for part in rotation)
    first, second = normed.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BTGD.dtype)


def _need_gradient(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        normed, inverse = _rms_forward(x, eps)
        context.save_for_backward(x, scale, inverse)
        return torch.addcmul(shift, normed, scale, out=normed)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, inverse = context.saved_tensors
        return _rms_backward(torch.mul(gradient, scale, out=torch.empty_like(x)), x, inverse), None, None, None


class _HeadsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x_BTGD: Tensor, weight_GD: Tensor, rotation: Rotation | None, heads: int, eps: float
    ) -> Tensor:
        normed, inverse = _rms_forward(x_BTGD, eps)
        context.save_for_backward(x_BTGD, weight_GD, inverse, *(rotation or ()))
        if rotation is None:
            return torch.unflatten(torch.mul(normed, weight_GD, out=normed), -1, (heads, -1))
        out = torch.unflatten(normed, -1, (heads, -1))
        return _rotate(torch.unflatten(normed * weight_GD, -1, (heads, -1)), rotation, 1, out=out)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse, *rotation = context.saved_tensors
        if rotation:
            gradient = _rotate(gradient, rotation, -1, out=gradient.new_empty(gradient.shape, dtype=torch.float32))
        of_normed = x.new_empty(gradient.shape)
        weight_GHK = torch.unflatten(weight, -1, gradient.shape[-2:])
        torch.mul(gradient, weight_GHK, out=of_normed)
        return _rms_backward(of_normed.flatten(-2), x, inverse), None, None, None, None


def _rotate(x_BTGHK: Tensor, rotation: Any, direction: int, *, out: Tensor) -> Tensor:
    """Rotate forward (1) or back (-1)."""
    cos, sin = (part[:, :, None] for part in rotation)
    first, second = x_BTGHK.chunk(2, dim=-1)
    turned = torch.unflatten(x_BTGHK, -1, (2, -1)) * cos[..., None, :]
    for half, other, sign in ((0, second, -direction), (1, first, direction)):
        torch.addcmul(turned[..., half, :], other, sin, value=sign, out=torch.unflatten(out, -1, (2, -1))[..., half, :])
    return out


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
