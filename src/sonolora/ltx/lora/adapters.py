"""LoRA adapters on the transformer's linear layers, and the LoRA file that Sonolora writes.

In: a transformer and target layers, or an adapter file. Out: adapters by module name; the file. The file has no alpha:
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
from sonolora.ltx.lora.lora_fit import require_any, unused_layers
from sonolora.ltx.lora.lora_names import FILE_PREFIX
from sonolora.ltx.model.joint_linear import JointLinear
from sonolora.ltx.model.layers import Attention
from sonolora.ltx.model.lora_layer import Adapters, LoRALinear, UpdatedLinear
from sonolora.ltx.model.transformer import Transformer

FILE_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class AppliedLoRA:
    """A LoRA on a model: its layers, and by layer why others are not used."""

    layers: Mapping[str, LoRALinear | UpdatedLinear]
    unused: Mapping[str, str]


def add_adapters(model: Transformer, targets: Iterable[str], rank: int, seed: int) -> Adapters:
    """Add an adapter to every layer whose name ends with one of `targets`.

    A is uniform in +-1/sqrt(in) and depends on (seed, module name) only; B is zero, so the model is unchanged at first.
    """
    suffixes = tuple(f".{target}" for target in targets)
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.endswith(suffixes)
    ]
    adapters = _adapt(model, {name: LoRALinear(_linear(model, name), rank) for name in names})
    matrices = adapters.matrices(adapters.flat.detach())
    for name in names:
        matrix = matrices[f"{name}.lora_A"]
        values = torch.rand(matrix.shape, generator=generator(seed, "lora_A", name))
        matrix.copy_((2 * values - 1) * (1 / math.sqrt(matrix.shape[1])))
    return adapters


def _adapt(model: Transformer, layers: Mapping[str, LoRALinear | UpdatedLinear]) -> Adapters:
    """Put the layers in place; returns those of low rank, with all values zero."""
    for name, layer in layers.items():
        _replace(model, name, layer)
    weight = model.get_parameter("audio_patchify_proj.weight")  # not that of a block, which may be offloaded
    low_rank = {name: layer for name, layer in layers.items() if isinstance(layer, LoRALinear)}
    model.adapters = Adapters(low_rank, _products(model, low_rank), device=weight.device, dtype=weight.dtype)
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


def lora_tensors(adapters: Adapters) -> dict[str, Tensor]:
    """The tensors of the LoRA file, by key: bfloat16, on the CPU."""
    matrices = adapters.matrices(adapters.flat.detach().to("cpu", FILE_DTYPE))
    return {f"{FILE_PREFIX}{name}.weight": matrix for name, matrix in matrices.items()}


def save_lora(path: Path, adapters: Adapters, metadata: Mapping[str, str]) -> None:
    """Write the LoRA file, atomically."""
    save_tensors(path, lora_tensors(adapters), metadata)


def apply_lora(model: Transformer, lora: LoRAFile, strength: float) -> AppliedLoRA:
    """Add a LoRA to a model without adapters. Layers that the model does not have, or has in another shape, are unused.

    Raises `CheckpointError` naming the reasons when no layer can be used, and when a layer holds NaN.
    """
    unused = unused_layers(lora, _linear_layers(model))
    require_any(lora, unused)
    layers: dict[str, LoRALinear | UpdatedLinear] = {}
    pairs = {}
    device = model.get_parameter("audio_patchify_proj.weight").device
    for name, update in lora.layers.items():
        if name in unused:
            continue
        if update.is_plain_lora:
            pairs[name] = lora.read_pair(name)
            rank = len(pairs[name][0])
            layers[name] = LoRALinear(_linear(model, name), rank, strength * update.scale)
        else:
            layers[name] = UpdatedLinear(_linear(model, name), lora.read(name).to(device), strength)
    adapters = _adapt(model, layers)
    matrices = adapters.matrices(adapters.flat.requires_grad_(False))
    for name, (down, up) in pairs.items():
        matrices[f"{name}.lora_A"].copy_(down)
        matrices[f"{name}.lora_B"].copy_(up)
    return AppliedLoRA(layers, {**unused, **lora.skipped})


def _linear_layers(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in) by name."""
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }
