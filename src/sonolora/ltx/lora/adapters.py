"""Low-rank adapters on the transformer's linear layers, and the published LoRA file.

In: a transformer, and which layers, or a LoRA file. Out: its adapters by module name; the file. On disk there is no
alpha: the published code fuses B A as it stands, so alpha equals rank and nothing is left to rescale.
Keys are `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`, as ComfyUI and diffusers read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import generator
from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.lora.lora_file import LoRAFile, require_fit
from sonolora.ltx.lora.lora_names import FILE_PREFIX
from sonolora.ltx.model.lora_layer import LoRALinear
from sonolora.ltx.model.transformer import Transformer

FILE_DTYPE = torch.bfloat16


Adapters = Mapping[str, LoRALinear]


def add_adapters(model: Transformer, targets: Iterable[str], rank: int, seed: int) -> dict[str, LoRALinear]:
    """Put adapters on every layer whose name ends with one of `targets`; returns them by module name.

    A is uniform in +-1/sqrt(in), from (seed, module name) alone; B is zero, so that the model is unchanged at first.
    """
    suffixes = tuple(f".{target}" for target in targets)
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.endswith(suffixes)
    ]
    adapters = {}
    for name in names:
        adapters[name] = adapter = _wrap(model, name, rank)
        bound = 1 / math.sqrt(adapter.lora_A.shape[1])
        values = torch.rand(adapter.lora_A.shape, generator=generator(seed, "lora_A", name))
        with torch.no_grad():
            adapter.lora_A.copy_((2 * values - 1) * bound)
    return adapters


def _wrap(model: Transformer, name: str, rank: int) -> LoRALinear:
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise CheckpointError(f"{name} is not a linear layer of this base without an adapter")
    # Not the layer's: its block may wait in the host's memory.
    adapter = LoRALinear(layer, rank, model.get_parameter("audio_patchify_proj.weight").device)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, adapter)
    return adapter


def remove_adapters(model: Transformer) -> None:
    """Put the frozen layers back in the places of their adapters, whatever put those there."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.base)


@contextmanager
def rounded_to_bf16(adapters: Adapters) -> Iterator[None]:
    """Within it the adapters have the values that the file will hold, so that a preview sounds like the file."""
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


def save_lora(path: Path, adapters: Adapters, metadata: Mapping[str, str]) -> None:
    """Write the LoRA file, bfloat16, atomically."""
    tensors = {}
    for name, adapter in adapters.items():
        for letter, parameter in (("A", adapter.lora_A), ("B", adapter.lora_B)):
            key = f"{FILE_PREFIX}{name}.lora_{letter}.weight"
            tensors[key] = parameter.detach().to("cpu", FILE_DTYPE).contiguous()
    save_tensors(path, tensors, metadata)


def apply_lora(model: Transformer, lora: LoRAFile, strength: float) -> dict[str, LoRALinear]:
    """Add a LoRA to a model without adapters; returns them by layer.

    In a model without its video stream, what a LoRA does to that stream is left out: sound alone does not pass there.
    Raises `CheckpointError` naming what does not fit the base, and when nothing of the LoRA would be left.
    """
    layers = _linear_layers(model)
    if model.has_video or lora.pairs.keys() <= layers.keys():
        require_fit(lora, layers)
    else:
        with torch.device("meta"):
            require_fit(lora, _linear_layers(Transformer(model.config, video=True)))
    adapters = {}
    for name in (name for name in lora.pairs if name in layers):
        down, up = lora.read(name)
        adapters[name] = adapter = _wrap(model, name, down.shape[0])
        adapter.scale = strength * lora.pairs[name].scale
        with torch.no_grad():
            adapter.lora_A.copy_(down)
            adapter.lora_B.copy_(up)
        adapter.requires_grad_(False)
    if not adapters:
        raise CheckpointError(f"{lora.path}: changes the video stream alone, which a sound without picture has not")
    return adapters


def _linear_layers(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Shapes (out, in) by name."""
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }
