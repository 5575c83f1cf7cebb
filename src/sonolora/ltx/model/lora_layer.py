"""Linear layers with an adapter, and all adapters of a model in one tensor.

A LoRA layer computes W x + b + scale * B (A x), A (rank, in), B (out, rank).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.model.joint_linear import JointLinear, frozen_tensors, product
from sonolora.ltx.model.low_rank import Factors, LowRank


class LoRALinear(nn.Module):
    """A frozen linear layer with a low-rank update, whose factors `Adapters` provides for every pass."""

    def __init__(self, base: nn.Linear, rank: int, scale: float = 1.0, members: int = 1) -> None:
        super().__init__()
        self.base = base
        self.update = LowRank(1, base.out_features, rank, base.in_features, scale, members)
        self.factors: Factors | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight; the network reads its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return product(x, frozen_tensors(self.base), self.base.bias, self.update, self.factors)


class UpdatedLinear(nn.Module):
    """A frozen linear layer with W + update(W) as its weight, which is computed at every call.

    For adapters that are not of low rank: no second full-size weight is kept, and the base may be quantised.
    """

    def __init__(self, base: nn.Linear, update: nn.Module) -> None:
        super().__init__()
        self.base, self.update = base, update

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight; the network reads its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.update(self.base.weight)
        added: Tensor = self.base(x) + F.linear(x, update.to(x.dtype))
        return added


class Adapters(Mapping[str, LoRALinear]):
    """The LoRA layers of a model by module name, with all their values in one float32 tensor.

    `flat` is the only parameter. `cast` makes one copy in the dtype of the base and hands each product its slice, so
    that a pass casts once, and its gradient, norm and update are single operations.

    Several LoRAs that are trained at once have a row of `flat` each: see `rows`.
    """

    def __init__(
        self,
        layers: Mapping[str, LoRALinear],
        products: Sequence[tuple[Sequence[str], JointLinear | LoRALinear]],
        *,
        device: torch.device,
        dtype: torch.dtype,
        members: int = 1,
    ) -> None:
        self._layers = dict(layers)
        self._products = products
        self._sizes = [size for _, target in products if target.update is not None for size in target.update.sizes]
        self._dtype = dtype
        size = sum(self._sizes)
        self.flat = nn.Parameter(torch.zeros(size if members == 1 else (members, size), device=device))
        # What an optimiser updates: a parameter for each member, which share the memory of `flat`.
        self.rows = [self.flat] if members == 1 else [nn.Parameter(row) for row in self.flat.detach()]

    def share_gradient(self) -> None:
        """After a backward pass: give each of `rows` its part of the gradient, as a view."""
        if self.rows[0] is not self.flat and self.flat.grad is not None:
            for row, gradient in zip(self.rows, self.flat.grad, strict=True):
                row.grad = gradient

    def cast(self) -> None:
        """Hand the values, in the dtype of the pass, to the products."""
        for (_, target), factors in self._slices(self.flat.to(self._dtype)):
            target.factors = factors

    def _slices(self, values: Tensor) -> Iterator[tuple[tuple[Sequence[str], JointLinear | LoRALinear], Factors]]:
        """Every product with its slices of A and of B."""
        parts = torch.split(values, self._sizes, -1)
        return zip(self._products, zip(parts[::2], parts[1::2], strict=True), strict=True)

    def matrices(self, values: Tensor) -> dict[str, Tensor]:
        """A and B of each layer, `<name>.lora_A` and `<name>.lora_B`, as views of a tensor that lies as `rows[0]` does.

        In the order in which they lie there.
        """
        result: dict[str, Tensor] = {}
        for (names, target), factors in self._slices(values):
            assert target.update is not None
            for letter, stacked in zip("AB", target.update.matrices(factors), strict=True):
                result |= {f"{name}.lora_{letter}": one for name, one in zip(names, stacked, strict=True)}
        return result

    def __getitem__(self, name: str) -> LoRALinear:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)
