"""What an adapter adds to the weight of a layer: LoRA, LoHa, LoKr, a full difference, and their DoRA variants.

In: the factors of one layer, and the scale. Out: the difference between new and old weight, float32.

    LoRA   s B A                          B (out, r), A (r, in)
    LoHa   s (w1_a w1_b) * (w2_a w2_b)    element-wise; w1_a (out, r), w1_b (r, in)
    LoKr   s kron(w1, w2)                 each of the two may be a product w1_a w1_b
    diff   s diff                         diff (out, in)
    DoRA   m (W + d) / |W + d| - W        d one of the above, m the magnitude of each row or column, |.| its norm

O outputs, I inputs. Sources: LoRA (Hu et al., 2021), LyCORIS (Yeh et al., 2023), DoRA (Liu et al., 2024); tests compare
with PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

LORA, LOHA, LOKR, DIFF = "LoRA", "LoHa", "LoKr", "full difference"
MAGNITUDE = "magnitude"
Shapes = Mapping[str, tuple[int, ...]]


class WeightUpdate(nn.Module):
    """The update of one layer, as a function of the layer's weight. Not trainable; moves with `to`."""

    def __init__(self, kind: str, factors: Mapping[str, Tensor], scale: float) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        for name, factor in factors.items():
            self.register_buffer(name, factor, persistent=False)

    def forward(self, weight_OI: Tensor) -> Tensor:
        """New weight minus old weight (O, I), float32."""
        update = self.scale * _product(self.kind, dict(self.named_buffers()))
        magnitude = getattr(self, MAGNITUDE, None)
        if magnitude is None:
            return update
        weight_OI = weight_OI.float()
        updated = weight_OI + update
        rows = magnitude.shape[-1] == 1
        norm = torch.linalg.vector_norm(updated, dim=1 if rows else 0, keepdim=True)
        # A row of zeros stays zero instead of becoming NaN.
        change: Tensor = magnitude / norm.clamp_min(torch.finfo(torch.float32).tiny) * updated - weight_OI
        return change


class SummedUpdates(nn.Module):
    """Updates of one layer, each times its strength; all are functions of the same weight."""

    def __init__(self, updates: Sequence[tuple[WeightUpdate, float]]) -> None:
        super().__init__()
        self.updates = nn.ModuleList(update for update, _ in updates)
        self.strengths = [strength for _, strength in updates]

    def forward(self, weight_OI: Tensor) -> Tensor:
        """Their sum (O, I), float32."""
        terms = [strength * update(weight_OI) for update, strength in zip(self.updates, self.strengths, strict=True)]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def update_shape(kind: str, shapes: Shapes) -> tuple[int, int]:
    """(out, in) of a product, from the shapes of its factors. Raises `ValueError` when they do not fit together."""
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if name != MAGNITUDE}
    try:
        product = _product(kind, meta)
    except (RuntimeError, KeyError) as error:
        raise ValueError(str(error)) from error
    if product.dim() != 2:
        raise ValueError(f"the product has {product.dim()} dimensions")
    return product.shape[0], product.shape[1]


def update_rank(kind: str, shapes: Shapes) -> int | None:
    """The rank of the factors, by which an alpha is divided; None where no factor is of low rank."""
    low_rank = {LORA: ("A",), LOHA: ("w1_b",), LOKR: ("w1_b", "w2_b"), DIFF: ()}[kind]
    return next((shapes[name][0] for name in low_rank if name in shapes), None)


def _product(kind: str, factors: Mapping[str, Tensor]) -> Tensor:
    if kind == LORA:
        return factors["B"] @ factors["A"]
    if kind == LOHA:
        first, second = _side(factors, "w1"), _side(factors, "w2")
        if first.shape != second.shape:  # they would be broadcast
            raise RuntimeError(f"the two products have shapes {tuple(first.shape)} and {tuple(second.shape)}")
        return first * second
    if kind == LOKR:
        return torch.kron(_side(factors, "w1"), _side(factors, "w2"))
    return factors["diff"]


def _side(factors: Mapping[str, Tensor], name: str) -> Tensor:
    return factors[name] if name in factors else factors[f"{name}_a"] @ factors[f"{name}_b"]
