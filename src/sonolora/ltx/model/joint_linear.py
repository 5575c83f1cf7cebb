"""Frozen linear layers that have one input, computed as one product together with the low-rank updates of adapters.

In: an input x and the frozen tensors of the layers. Out: W x + b, and for adapted layers + scale * B (A x). The
backward pass is written by hand: autograd's takes twice as many operations, most of which copy.

T tokens, I inputs, O outputs of all layers together, G adapted layers of one shape, D outputs of each, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.memory.quantised import QuantisedLinear, dequantise
from sonolora.ltx.model.low_rank import Factors, LowRank
from sonolora.ltx.model.stacked_linear import stacked_product


class JointLinear:
    """Linear layers of one input, all plain or all quantised; their frozen tensors become rows of its own.

    It is no module: what it computes with belongs to the layers. Not `usable` while they have adapters that it cannot
    compute, see `adopt`.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.frozen = [_join(parts) for parts in zip(*map(frozen_tensors, layers), strict=True)]
        self.bias = _join([layer.bias for layer in layers])
        self.usable = True
        self.update: LowRank | None = None
        self.factors: Factors | None = None

    def adopt(self, updates: Sequence[LowRank | None], *, usable: bool = True) -> None:
        """Compute these updates, one for each adapted layer, if they are of the first layers and of one shape."""
        adapted = [update for update in updates if update is not None]
        self.usable = usable and len({*adapted}) <= 1 and [*updates[: len(adapted)]] == adapted
        self.update = adapted[0]._replace(layers=len(adapted)) if self.usable and adapted else None
        self.factors = None

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of all layers, side by side."""
        return product(x, self.frozen, self.bias, self.update, self.factors)


def frozen_tensors(layer: nn.Linear) -> tuple[Tensor, ...]:
    """The weight, or codes and scales."""
    return (layer.codes, layer.scales) if isinstance(layer, QuantisedLinear) else (layer.weight,)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """One tensor, of which the parts become views."""
    joined = torch.cat([part.data for part in parts])
    for part, rows in zip(parts, torch.split(joined, [len(part) for part in parts]), strict=True):
        part.data = rows
    return joined


def product(
    x: Tensor,
    frozen: Sequence[Tensor],
    bias: Tensor | None,
    update: LowRank | None = None,
    factors: Factors | None = None,
) -> Tensor:
    """W x + b with the update of the factors, which are in the dtype of x; `frozen` as `frozen_tensors` gives it.

    Only x and the factors have gradients.
    """
    a, b = factors or (None, None)
    if update is not None and update.members > 1 and a is not None and b is not None:
        return stacked_product(x, a, b, bias, update, _weight(frozen, x.dtype))
    return _Product.apply(x, a, b, bias, update, *frozen)  # type: ignore[no-any-return,no-untyped-call]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        bias: Tensor | None,
        update: LowRank | None,
        *frozen: Tensor,
    ) -> Tensor:
        context.update = update
        out = F.linear(x, _weight(frozen, x.dtype), bias)
        if update is None or a is None or b is None:
            context.save_for_backward(*frozen)
            return out
        x_TI = x.flatten(0, -2)
        a_GRI, b_GDR = update.matrices((a, b))
        down_TR = F.linear(x_TI, a_GRI.flatten(0, 1))
        if update.scale != 1:
            down_TR *= update.scale
        weights = frozen if context.needs_input_grad[0] else ()
        context.save_for_backward(*weights, x_TI, a, b, down_TR)
        added_GTD = _by_layer(out.flatten(0, -2), update.layers, update.outputs)
        factors_of = _by_layer(down_TR, update.layers, update.rank), b_GDR.mT
        if not torch.compiler.is_compiling():
            added_GTD.baddbmm_(*factors_of)
            return out
        # torch.compile has no products in place of columns.
        added = torch.baddbmm(added_GTD, *factors_of).transpose(0, 1).reshape(*out.shape[:-1], -1)
        return torch.cat([added, out[..., added.shape[-1] :]], dim=-1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        update = context.update
        needs_x, needs_a, _, *others = context.needs_input_grad
        nothing = [None] * len(others)
        if update is None:
            return gradient @ _weight(context.saved_tensors, gradient.dtype), None, None, *nothing
        *frozen, x_TI, a, b, down_TR = context.saved_tensors
        a_GRI, b_GDR = update.matrices((a, b))
        gradient_TO = gradient.flatten(0, -2)
        of_layers_GTD = _by_layer(gradient_TO, update.layers, update.outputs)
        of_down_GTR = torch.bmm(of_layers_GTD, b_GDR)
        if update.scale != 1:
            of_down_GTR *= update.scale
        of_x = of_a = of_b = None
        if needs_a:
            of_a = torch.bmm(of_down_GTR.mT, x_TI.expand(update.layers, -1, -1)).flatten()
            of_b = torch.bmm(of_layers_GTD.mT, _by_layer(down_TR, update.layers, update.rank)).flatten()
        if needs_x:
            of_down_TR = of_down_GTR.transpose(0, 1).flatten(1)
            of_x = gradient_TO @ _weight(frozen, gradient.dtype)
            of_x = of_x.addmm_(of_down_TR, a_GRI.flatten(0, 1)).view(*gradient.shape[:-1], -1)
        return of_x, of_a, of_b, *nothing


def _weight(frozen: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return frozen[0] if len(frozen) == 1 else dequantise(frozen[0], frozen[1], dtype)


def _by_layer(rows: Tensor, layers: int, columns: int) -> Tensor:
    """(layers, T, columns): the first columns of a matrix, layer by layer, as a view."""
    return torch.unflatten(rows[:, : layers * columns], 1, (layers, columns)).transpose(0, 1)
