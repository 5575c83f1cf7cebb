"""LoRA adapters on the transformer's linear layers, and the LoRA file that Sonolora writes.

In: a transformer and target layers, or updates. Out: adapters by module name; the file. The file has no alpha:
the publisher's code fuses B A unscaled, so alpha equals rank.
Keys are `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`, as ComfyUI and diffusers read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import generator
from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.lora.lora_file import LoRAFile
from sonolora.ltx.lora.lora_names import FILE_PREFIX
from sonolora.ltx.lora.weight_update import SummedUpdates
from sonolora.ltx.model.joint_linear import JointLinear
from sonolora.ltx.model.layers import Attention
from sonolora.ltx.model.lora_layer import Adapters, LoRALinear, UpdatedLinear
from sonolora.ltx.model.transformer import Transformer

FILE_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class LowRankUpdate:
    """scale * B A of one layer."""

    down: Tensor  # A (rank, in)
    up: Tensor  # B (out, rank)
    scale: float = 1.0


def add_adapters(model: Transformer, targets: Iterable[str], rank: int, seed: int) -> Adapters:
    """Add an adapter to every layer whose name ends with one of `targets`.

    A is uniform in +-1/sqrt(in) and depends on (seed, module name) only; B is zero, so the model is unchanged at first.
    """
    return add_stacked_adapters(model, targets, [rank], seed)


def add_stacked_adapters(model: Transformer, targets: Iterable[str], ranks: Sequence[int], seed: int) -> Adapters:
    """Adapters of several LoRAs that are trained at once, each as `add_adapters` makes it.

    Factors of a lower rank are padded with zeros, which have no gradient: they stay zero.
    """
    suffixes = tuple(f".{target}" for target in targets)
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.endswith(suffixes)
    ]
    padded, members = max(ranks), len(ranks)
    adapters = _adapt(
        model, {name: LoRALinear(_linear(model, name), padded, members=members) for name in names}, members
    )
    for rank, row in zip(ranks, adapters.rows, strict=True):
        matrices = adapters.matrices(row.detach())
        for name in names:
            matrix = matrices[f"{name}.lora_A"][:rank]
            values = torch.rand(matrix.shape, generator=generator(seed, "lora_A", name))
            matrix.copy_((2 * values - 1) * (1 / math.sqrt(matrix.shape[1])))
    return adapters


def _adapt(model: Transformer, layers: Mapping[str, LoRALinear | UpdatedLinear], members: int = 1) -> Adapters:
    """Put the layers in place; returns those of low rank, with all values zero."""
    for name, layer in layers.items():
        _replace(model, name, layer)
    weight = model.get_parameter("audio_patchify_proj.weight")  # not that of a block, which may be offloaded
    low_rank = {name: layer for name, layer in layers.items() if isinstance(layer, LoRALinear)}
    products = _products(model, low_rank)
    model.adapters = Adapters(low_rank, products, device=weight.device, dtype=weight.dtype, members=members)
    model.register_parameter("adapter_values", model.adapters.flat)
    return model.adapters


def _products(
    model: Transformer, adapted: Mapping[str, LoRALinear]
) -> list[tuple[Sequence[str], JointLinear | LoRALinear]]:
    """What computes the adapted layers: a joint product where it can, else the layer itself."""
    products: list[tuple[Sequence[str], JointLinear | LoRALinear]] = []
    apart = dict(adapted)
    for path, module in model.named_modules():
        for names, joint in module.joint.values() if isinstance(module, Attention) else ():
            layers = [getattr(module, name) for name in names]
            joint.adopt(
                [layer.update if isinstance(layer, LoRALinear) else None for layer in layers],
                usable=not any(isinstance(layer, UpdatedLinear) for layer in layers),
            )
            if joint.update is not None:
                together = [f"{path}.{name}" for name in names[: joint.update.layers]]
                products.append((together, joint))
                for name in together:
                    del apart[name]
    return products + [((name,), layer) for name, layer in apart.items()]


def _linear(model: Transformer, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise CheckpointError(f"{name} is not a linear layer of this base without an adapter")
    return layer


def _replace(model: Transformer, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)


def remove_adapters(model: Transformer) -> None:
    """Replace every adapter by its frozen layer."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear | UpdatedLinear):
            _replace(model, name, module.base)
    if model.adapters is not None:
        _products(model, {})
        model.adapters = None
        del model.adapter_values


def rounded_to_bf16(adapters: Adapters) -> AbstractContextManager[None]:
    """Context in which the adapters have the rounded values of the file, so that a preview sounds like the file."""
    return with_values(adapters, adapters.flat.detach().to(FILE_DTYPE))


def at_strength(adapters: Adapters, strength: float) -> AbstractContextManager[None]:
    """Context in which the adapters have the values of the file, used at a strength."""
    values = adapters.flat.detach().to(FILE_DTYPE).float()
    for name, matrix in adapters.matrices(values).items():
        if name.endswith("lora_B"):
            matrix *= strength
    return with_values(adapters, values)


@contextmanager
def with_values(adapters: Adapters, values: Tensor) -> Iterator[None]:
    """Context in which the adapters have these values, which lie as `flat` does."""
    current = adapters.flat.detach()
    exact = current.clone()
    current.copy_(values)
    try:
        yield
    finally:
        current.copy_(exact)


def lora_tensors(adapters: Adapters, member: int = 0, rank: int | None = None) -> dict[str, Tensor]:
    """The tensors of the LoRA file, by key: bfloat16, on the CPU. `rank`: of the member, without what pads it."""
    matrices = adapters.matrices(adapters.rows[member].detach().to("cpu", FILE_DTYPE))
    tensors = {f"{FILE_PREFIX}{name}.weight": matrix for name, matrix in matrices.items()}
    if rank is None:
        return tensors
    return {name: (one[:rank] if "lora_A" in name else one[:, :rank]).contiguous() for name, one in tensors.items()}


def save_lora(path: Path, adapters: Adapters, metadata: Mapping[str, str]) -> None:
    """Write the LoRA file, atomically."""
    save_tensors(path, lora_tensors(adapters), metadata)


def begin_with(adapters: Adapters, lora: LoRAFile) -> None:
    """Give new adapters the values of a LoRA of the same or a lower rank; what it lacks stays as it was made.

    Raises `CheckpointError` for layers that the adapters do not have, another kind of update, or a higher rank.
    """
    matrices = adapters.matrices(adapters.flat.detach())
    for name, update in lora.layers.items():
        if name not in adapters or not update.is_plain_lora:
            raise CheckpointError(f"training cannot go on from this LoRA: {name} is not what this run trains")
        down, up = lora.read_pair(name)
        to_down, to_up = matrices[f"{name}.lora_A"], matrices[f"{name}.lora_B"]
        rank = len(down)
        if rank > len(to_down) or down.shape[1] != to_down.shape[1] or len(up) != len(to_up):
            raise CheckpointError(
                f"training cannot go on from this LoRA: {name} has rank {rank} and shape {len(up)} x {down.shape[1]}, "
                f"where the run has rank {len(to_down)} and shape {len(to_up)} x {to_down.shape[1]}"
            )
        to_down[:rank].copy_(down)
        to_up[:, :rank].copy_(update.scale * up)
    if lora.skipped or not lora.layers:
        name = next(iter(lora.skipped), "it has no layers")
        raise CheckpointError(f"training cannot go on from this LoRA: {name} cannot be read")


def put_updates(model: Transformer, updates: Mapping[str, LowRankUpdate | SummedUpdates]) -> None:
    """Add updates, which are not trained, to layers of a model without adapters."""
    device = model.get_parameter("audio_patchify_proj.weight").device
    layers: dict[str, LoRALinear | UpdatedLinear] = {}
    for name, update in updates.items():
        if isinstance(update, LowRankUpdate):
            layers[name] = LoRALinear(_linear(model, name), len(update.down), update.scale)
        else:
            layers[name] = UpdatedLinear(_linear(model, name), update.to(device))
    adapters = _adapt(model, layers)
    matrices = adapters.matrices(adapters.flat.requires_grad_(False))
    for name, update in updates.items():
        if isinstance(update, LowRankUpdate):
            matrices[f"{name}.lora_A"].copy_(update.down)
            matrices[f"{name}.lora_B"].copy_(update.up)


def put_back(model: Transformer, adapters: Adapters) -> None:
    """Put adapters that `remove_adapters` has removed where they were."""
    for name, adapter in adapters.items():
        _replace(model, name, adapter)
    _products(model, adapters)
    model.adapters = adapters
    model.register_parameter("adapter_values", adapters.flat)


def linear_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in) of the linear layers by name."""
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }
