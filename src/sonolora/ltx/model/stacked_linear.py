"""Frozen layers of one input with the low-rank updates of several LoRAs that are trained at once, one a member.

In: an input that the members share (batch 1), or one each (batch K); the frozen weight; the factors of all members.
Out: W x + b + B_k (A_k x) of each member, (K, T, O). The frozen product is computed once where the input is shared, as
that of the text is, and over the tokens of all members where it is not.

K members, T tokens, I inputs, O outputs of all layers together, G adapted layers of one shape, D outputs of each,
R rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.ltx.model.low_rank import LowRank


def stacked_product(x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, update: LowRank, weight_OI: Tensor) -> Tensor:
    """The product of all members, (K, T, O); `a` and `b` have a row for each. Only x and the factors have gradients."""
    return _StackedProduct.apply(x, a, b, bias, update, weight_OI)  # type: ignore[no-any-return,no-untyped-call]


class _StackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, update: LowRank, weight_OI: Tensor
    ) -> Tensor:
        context.update = update
        a_KRI, b_KGDR = _matrices(update, a, b)
        down_KTR = torch.matmul(x, a_KRI.mT)
        out = F.linear(x, weight_OI, bias)
        if len(x) == 1:
            out = out.expand(update.members, -1, -1).contiguous()
        for added, down, b_KDR in _by_layer(update, out, down_KTR, b_KGDR):
            added.baddbmm_(down, b_KDR.mT)
        context.save_for_backward(x, a, b, down_KTR, *([weight_OI] if context.needs_input_grad[0] else []))
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        update: LowRank = context.update
        x, a, b, down_KTR, *weights = context.saved_tensors
        a_KRI, b_KGDR = _matrices(update, a, b)
        of_down_KTR, of_b_KGDR = torch.empty_like(down_KTR), torch.empty_like(b_KGDR)
        parts = zip(
            _by_layer(update, gradient, down_KTR, b_KGDR),
            _by_layer(update, gradient, of_down_KTR, of_b_KGDR),
            strict=True,
        )
        for (of_layer, down, b_KDR), (_, of_down, of_b_KDR) in parts:
            of_down.copy_(torch.bmm(of_layer, b_KDR))
            of_b_KDR.copy_(torch.bmm(of_layer.mT, down))
        of_a = torch.matmul(of_down_KTR.mT, x).flatten(1)
        of_x = None
        if weights:
            of_x = (gradient @ weights[0]).baddbmm_(of_down_KTR, a_KRI)
            of_x = of_x.sum(0, keepdim=True) if len(x) == 1 else of_x
        return of_x, of_a, of_b_KGDR.flatten(1), None, None, None


def _matrices(update: LowRank, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A (K, G R, I) and B (K, G, D, R), as views."""
    return (
        torch.unflatten(a, -1, (update.layers * update.rank, update.inputs)),
        torch.unflatten(b, -1, (update.layers, update.outputs, update.rank)),
    )


def _by_layer(update: LowRank, out: Tensor, down: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each adapted layer its columns (K, T, D) and (K, T, R), and its B (K, D, R), as views."""
    adapted = out[..., : update.layers * update.outputs]
    columns = torch.split(adapted, update.outputs, -1), torch.split(down, update.rank, -1), b.unbind(1)
    return list(zip(*columns, strict=True))
