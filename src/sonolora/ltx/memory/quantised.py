"""Frozen linear layers with 8-bit or 4-bit weights, dequantised each time they are used.

In: the weight of a linear layer. Out: its codes and scales, and a layer that computes with the dequantised weight. A
full-size weight lives only as long as the operation that uses it, not from the forward to the backward pass.

    int8  round(127 w / m), m the largest magnitude in a row        1 byte per weight
    fp8   w / m * 448 as float8_e4m3fn (3 mantissa bits)            1 byte per weight
    nf4   the nearest of 16 quantiles of a normal distribution,
          scaled by the largest magnitude in a group of 64          half a byte, and 4 bytes per 64 weights

O outputs, I inputs. Source of nf4: Dettmers et al., QLoRA (2023), appendix E. Codes, scales and float32 weights are
bit-identical to those of bitsandbytes (tests/ltx/memory/test_quantised.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.memory.device_constants import on_device

GROUP_SIZE = 64  # weights that share a scale in nf4
_MAX_CODE = {"int8": 127.0, "fp8": 448.0}
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantise(weight_OI: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """Codes and float32 scales of a weight; nf4 needs an I that is a multiple of 64.

    int8 and fp8: codes (O, I), scales (O, 1). nf4: codes uint8 (O, I / 2) with the first of two weights in the upper
    four bits, scales (O, I / 64, 1).
    """
    weight_OI = weight_OI.float()
    tiny = torch.finfo(torch.float32).tiny  # avoids division by zero for a row of zeros
    if format == "nf4":
        groups = weight_OI.view(len(weight_OI), -1, GROUP_SIZE)
        scales = groups.abs().amax(-1, keepdim=True)
        values = weight_OI.new_tensor(_NF4)
        nearest = torch.bucketize(groups / scales.clamp_min(tiny), (values[1:] + values[:-1]) / 2, out_int32=True)
        upper, lower = nearest.view(len(weight_OI), -1, 2).unbind(-1)
        return (upper << 4 | lower).to(torch.uint8), scales
    scales = (weight_OI.abs().amax(1, keepdim=True) / _MAX_CODE[format]).clamp_min(tiny)
    codes = weight_OI / scales
    return codes.round().to(torch.int8) if format == "int8" else codes.to(torch.float8_e4m3fn), scales


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight (O, I) in `dtype`; allocates nothing larger than the result."""
    if codes.dtype != torch.uint8:
        return codes.to(dtype).mul_(scales)  # codes are exact in bfloat16; the product is rounded once
    weights = F.embedding(codes.int(), _table(dtype, codes.device))
    return weights.view(len(codes), -1, GROUP_SIZE).mul_(scales).flatten(1)


def _table(dtype: torch.dtype, device: torch.device) -> Tensor:
    return on_device(_pairs, dtype, device=device)


# What `torch.compiler.assume_constant_result` does, without importing the compiler: that takes seconds.
_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _pairs(dtype: torch.dtype) -> Tensor:
    """The two nf4 values that each byte encodes, (256, 2)."""
    values = torch.tensor(_NF4, dtype=dtype)
    return torch.stack([values.repeat_interleave(16), values.repeat(16)], dim=1)


class QuantisedLinear(nn.Linear):
    """A frozen linear layer with a quantised weight. Codes and scales are not part of the state dict.

    Replaces `linear` and takes over its bias; codes and scales (see `quantise`) go to `device`.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self, linear: nn.Linear, codes: Tensor, scales: Tensor, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = linear.out_features, linear.in_features
        self.bias = linear.bias
        self.dtype = dtype  # of `weight`
        self.register_buffer("codes", codes.to(device), persistent=False)
        self.register_buffer("scales", scales.to(device), persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The dequantised weight, computed on access."""
        return dequantise(self.codes, self.scales, self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """W x + b."""
        return _QuantisedLinearFunction.apply(input, self.codes, self.scales, self.bias)  # type: ignore[no-any-return,no-untyped-call]


class _QuantisedLinearFunction(torch.autograd.Function):
    """F.linear with the dequantised weight. Weight and bias are frozen, so only the input has a gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(codes, scales)
        return F.linear(x, dequantise(codes, scales, x.dtype), bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scales = context.saved_tensors
        return gradient @ dequantise(codes, scales, gradient.dtype), None, None, None
