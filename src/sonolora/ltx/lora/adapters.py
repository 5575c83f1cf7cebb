"""LoRA adapters on the transformer's linear layers, and the LoRA file that Sonolora writes.

In: a transformer and target layers, or an adapter file. Out: adapters by module name; the file. The file has no alpha:
the publisher's code fuses B A unscaled, so alpha equals rank.
Keys are `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`, as ComfyUI and diffusers read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from sonolora.ltx.model.lora_layer import LoRALinear, UpdatedLinear
from sonolora.ltx.model.transformer import Transformer

FILE_DTYPE = torch.bfloat16
Adapters = Mapping[str, LoRALinear]


@dataclass(frozen=True)
class AppliedLoRA:
    """A LoRA on a model: its layers, and by layer why others are not used."""

    layers: Mapping[str, LoRALinear | UpdatedLinear]
    unused: Mapping[str, str]


def add_adapters(model: Transformer, targets: Iterable[str], rank: int, seed: int) -> dict[str, LoRALinear]:
    """Add an adapter to every layer whose name ends with one of `targets`; returns them by module name.

    A is uniform in +-1/sqrt(in) and depends on (seed, module name) only; B is zero, so the model is unchanged at first.
    """
    suffixes = tuple(f".{target}" for target in targets)
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.endswith(suffixes)
    ]
    adapters = {}
    for name in names:
        adapters[name] = adapter = _add_lora(model, name, rank)
        bound = 1 / math.sqrt(adapter.lora_A.shape[1])
        values = torch.rand(adapter.lora_A.shape, generator=generator(seed, "lora_A", name))
        with torch.no_grad():
            adapter.lora_A.copy_((2 * values - 1) * bound)
    return adapters


def _add_lora(model: Transformer, name: str, rank: int) -> LoRALinear:
    adapter = LoRALinear(_linear(model, name), rank, _device(model))
    _replace(model, name, adapter)
    return adapter


def _linear(model: Transformer, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise CheckpointError(f"{name} is not a linear layer of this base without an adapter")
    return layer


def _device(model: Transformer) -> torch.device:
    # Not the adapted layer's: its block may be offloaded to host memory.
    return model.get_parameter("audio_patchify_proj.weight").device


def _replace(model: Transformer, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)


def remove_adapters(model: Transformer) -> None:
    """Replace every adapter by its frozen layer."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear | UpdatedLinear):
            _replace(model, name, module.base)


@contextmanager
def rounded_to_bf16(adapters: Adapters) -> Iterator[None]:
    """Context in which the adapters have the rounded values of the file, so that a preview sounds like the file."""
    parameters = [p for adapter in adapters.values() for p in (adapter.lora_A, adapter.lora_B)]
    exact = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(parameter.to(FILE_DTYPE))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, exact, strict=True):
                parameter.copy_(values)


def lora_tensors(adapters: Adapters) -> dict[str, Tensor]:
    """The tensors of the LoRA file, by key: bfloat16, on the CPU."""
    tensors = {}
    for name, adapter in adapters.items():
        for letter, parameter in (("A", adapter.lora_A), ("B", adapter.lora_B)):
            key = f"{FILE_PREFIX}{name}.lora_{letter}.weight"
            tensors[key] = parameter.detach().to("cpu", FILE_DTYPE).contiguous()
    return tensors


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
    for name, update in lora.layers.items():
        if name in unused:
            continue
        if update.is_plain_lora:
            down, up = lora.read_pair(name)
            layers[name] = adapter = _add_lora(model, name, down.shape[0])
            adapter.scale = strength * update.scale
            with torch.no_grad():
                adapter.lora_A.copy_(down)
                adapter.lora_B.copy_(up)
            adapter.requires_grad_(False)
        else:
            layers[name] = updated = UpdatedLinear(_linear(model, name), lora.read(name).to(_device(model)), strength)
            _replace(model, name, updated)
    return AppliedLoRA(layers, {**unused, **lora.skipped})


def _linear_layers(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in) by name."""
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }
