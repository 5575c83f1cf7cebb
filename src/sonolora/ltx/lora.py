"""Low-rank adapters on the transformer's linear layers, and the published LoRA file.

An adapted layer computes W x + b + scale * B (A x), A (rank, in), B (out, rank). On disk there is no alpha: the
published code fuses B A as it stands, so alpha equals rank and nothing is left to rescale.
Keys are `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`, as ComfyUI and diffusers read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from sonolora.errors import CheckpointError
from sonolora.ltx.checkpoint import Checkpoint
from sonolora.ltx.transformer import Transformer
from sonolora.randomness import generator
from sonolora.tensors import save_tensors

FILE_PREFIX = "diffusion_model."
FILE_DTYPE = torch.bfloat16


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank addition; A and B are float32 whatever the base is."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        device = base.weight.device
        self.base = base
        self.scale = 1.0
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(x, self.lora_A.to(x.dtype))
        return self.base(x) + self.scale * F.linear(low, self.lora_B.to(x.dtype))  # type: ignore[no-any-return]


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
    adapter = LoRALinear(layer, rank)
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
def as_saved(adapters: Adapters) -> Iterator[None]:
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


@dataclass(frozen=True)
class LoRA:
    """A LoRA file read into memory: per module A (rank, in) and B (out, rank), and what the file says of itself."""

    path: Path
    weights: Mapping[str, tuple[Tensor, Tensor]]
    metadata: Mapping[str, str]


def load_lora(path: Path) -> LoRA:
    """Read a LoRA file. Raises `CheckpointError` for keys that are not of the published form or have no partner."""
    metadata = {key: str(value) for key, value in Checkpoint.open(path).metadata.items()}
    tensors = load_file(path)
    weights = {}
    for key in list(tensors):
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        down, up = tensors.pop(key), tensors.pop(f"{module}.lora_B.weight", None)
        if up is None or not module.startswith(FILE_PREFIX) or up.shape[1] != down.shape[0]:
            raise CheckpointError(f"{path}: {key} is not half of a LoRA pair of the form {FILE_PREFIX}*.lora_A/lora_B")
        weights[module.removeprefix(FILE_PREFIX)] = (down.float(), up.float())
    if tensors:
        raise CheckpointError(f"{path}: not a LoRA of the published form: unknown key {min(tensors)}")
    if not weights:
        raise CheckpointError(f"{path}: holds no LoRA tensors")
    return LoRA(path, weights, metadata)


def apply_lora(model: Transformer, lora: LoRA, scale: float) -> dict[str, LoRALinear]:
    """Add a LoRA to a model without adapters. Raises `CheckpointError` naming what does not fit the base."""
    modules = dict(model.named_modules())
    strange = sorted(name for name in lora.weights if name not in modules)
    if strange:
        raise CheckpointError(f"{lora.path}: made for another base: this one has no {strange[0]} ({len(strange)} such)")
    adapters = {}
    for name, (down, up) in lora.weights.items():
        adapters[name] = adapter = _wrap(model, name, down.shape[0])
        if adapter.lora_A.shape != down.shape or adapter.lora_B.shape != up.shape:
            raise CheckpointError(
                f"{lora.path}: {name} is of shape {tuple(up.shape)} x {tuple(down.shape)}, the base wants "
                f"{tuple(adapter.lora_B.shape)} x {tuple(adapter.lora_A.shape)}"
            )
        adapter.scale = scale
        with torch.no_grad():
            adapter.lora_A.copy_(down)
            adapter.lora_B.copy_(up)
        adapter.requires_grad_(False)
    return adapters
