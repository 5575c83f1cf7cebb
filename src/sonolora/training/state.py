"""A training state as a file: what training continues from.

In: a `Trainer`. Out: a safetensors file; or a trainer that continues exactly where another one was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import CheckpointError
from sonolora.training.trainer import MOMENTS, VALUES, Trainer

KEPT = "kept."  # begins the names of tensors that are kept beside the trainer's state
VERSION = "identity_version"  # of an identity; those of version 0.1 have none
Layout = Mapping[str, tuple[int, ...]]
_LAYOUT = "layout"  # names and shapes of the matrices in each tensor, JSON


def save_state(
    path: Path, tensors: Mapping[str, Tensor], step: int, layout: Layout, identity: Mapping[str, str]
) -> None:
    """Write a trainer's state of a step, atomically; `identity` says which run it belongs to. Raises `OutputError`."""
    save_checked(path, tensors, {**identity, "step": str(step), _LAYOUT: json.dumps(list(layout.items()))})


def load_state(path: Path, trainer: Trainer, identities: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
    """Continue from a state; returns what was kept beside it. `identities`: what the run's states say of themselves,
    in each version's form.

    Raises `DamagedFileError` when the state is damaged, and `CheckpointError` when it belongs to other data, settings
    or another base.
    """
    tensors, metadata = load_checked(path)
    version = metadata.get(VERSION)
    identity = next((one for one in identities if one.get(VERSION) == version), None)
    if identity is None:
        raise CheckpointError(f"{path} was written by a newer version of Sonolora: continue the run with that one")
    for key, value in identity.items():
        if metadata.get(key) != value:
            raise CheckpointError(f"{path} is of another run: its {key} is {metadata.get(key)}, this run's is {value}")
    kept = {name: tensors.pop(name) for name in list(tensors) if name.startswith(KEPT)}
    trainer.load_state(_arranged(tensors, metadata, trainer.layout, path), int(metadata["step"]))
    return {name.removeprefix(KEPT): tensor for name, tensor in kept.items()}


def read_kept(path: Path) -> dict[str, Tensor]:
    """What was kept beside a trainer's state, without a trainer. Raises `DamagedFileError` when it is damaged."""
    tensors, _ = load_checked(path)
    return {name.removeprefix(KEPT): tensor for name, tensor in tensors.items() if name.startswith(KEPT)}


def _arranged(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layout: Layout, path: Path
) -> dict[str, Tensor]:
    """The state as `layout` says. Raises `CheckpointError` when it is of other adapters."""
    by_name = _matrices(tensors, metadata)
    for name in sorted({*layout, *by_name[VALUES]}):
        if name not in layout or name not in by_name[VALUES]:
            raise CheckpointError(f"{path} is of another LoRA: it differs in {name}")
        if by_name[VALUES][name].shape != layout[name]:
            raise CheckpointError(f"{path} is of another rank: {name} differs in shape")
    return {part: torch.cat([matrices[name].flatten() for name in layout]) for part, matrices in by_name.items()}


def _matrices(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """The matrices of each part by name."""
    if _LAYOUT not in metadata:  # up to version 0.2 every matrix was a tensor of its own
        values = {name: one for name, one in tensors.items() if not name.endswith(MOMENTS)}
        return {VALUES: values} | {part: {name: tensors[f"{name}.{part}"] for name in values} for part in MOMENTS}
    return matrices_of(tensors, {name: tuple(shape) for name, shape in json.loads(metadata[_LAYOUT])})


def matrices_of(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, dict[str, Tensor]]:
    """The matrices of each tensor of a state by name, as views."""
    sizes = [prod(shape) for shape in layout.values()]
    return {
        part: {name: one.view(layout[name]) for name, one in zip(layout, torch.split(flat, sizes), strict=True)}
        for part, flat in tensors.items()
    }
