"""The modulated norm as Triton kernels: one pass over the stream forward, one backward.

In: a stream x (B, T, D), and scale and shift (B, T or 1, D). Out: rms(x) * scale + shift and the inverse root mean
square (B, T); or the gradient of x. All sums are in float32. Not yet run on a GPU: Triton's interpreter runs it in a
test.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    x, scale, shift, out, inverses, tokens, width, eps, of_sample, of_token, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
    at = (row // tokens) * of_sample + (row % tokens) * of_token + columns
    scales = tl.load(scale + at, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, (values * inverse * scales + shifts).to(out.dtype.element_ty), mask=inside)
    tl.store(inverses + row, inverse)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    gradient, x, scale, inverses, out, tokens, width, of_sample, of_token, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    inverse = tl.load(inverses + row)
    normed = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32) * inverse
    at = (row // tokens) * of_sample + (row % tokens) * of_token + columns
    scales = tl.load(scale + at, mask=inside, other=0.0).to(tl.float32)
    of_normed = tl.load(gradient + row * width + columns, mask=inside, other=0.0).to(tl.float32) * scales
    along = tl.sum(of_normed * normed, axis=0) / width
    of_x = (of_normed - normed * along) * inverse
    tl.store(out + row * width + columns, of_x.to(out.dtype.element_ty), mask=inside)


def forward(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The modulated norm, and the inverse root mean square of each token, (B, T, 1) float32."""
    x = x.contiguous()
    out = torch.empty_like(x)
    inverses = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    scale, shift = _rows(scale), _rows(shift)
    _launch(_forward, x, scale, x, scale, shift, out, inverses, x.shape[1], x.shape[2], eps)
    return out, inverses


def backward(gradient: Tensor, x: Tensor, scale: Tensor, inverses: Tensor) -> Tensor:
    """The gradient of x."""
    gradient, x, scale = gradient.contiguous(), x.contiguous(), _rows(scale)
    out = torch.empty_like(x)
    _launch(_backward, x, scale, gradient, x, scale, inverses, out, x.shape[1], x.shape[2])
    return out


def _rows(vectors: Tensor) -> Tensor:
    """With each vector in one piece; `scale` and `shift` have the same strides then."""
    return vectors.contiguous()


def _launch(kernel: Any, x: Tensor, vectors: Tensor, *arguments: Any) -> None:
    """One program for each token. Vectors that all tokens of a sample share have no stride from token to token."""
    batch, tokens, width = x.shape
    of_sample = 0 if len(vectors) == 1 else vectors.stride(0)
    of_token = 0 if vectors.shape[1] == 1 else vectors.stride(1)
    kernel[(batch * tokens,)](*arguments, of_sample, of_token, BLOCK=triton.next_power_of_2(width))
