"""A training state as a file: what training continues from.

In: a `Trainer`. Out: a safetensors file; or a trainer that continues exactly where another one was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import CheckpointError
from sonolora.training.trainer import Trainer

_EVALUATION = "evaluation."  # begins the names of what is kept beside the trainer's state
VERSION = "identity_version"  # of an identity; those of version 0.1 have none


def save_state(path: Path, trainer: Trainer, identity: Mapping[str, str], evaluation: Mapping[str, Tensor]) -> None:
    """Write the trainer's state, atomically. `identity` says which run it belongs to; `evaluation` is kept beside it,
    for `load_state` to return. Raises `OutputError`."""
    tensors = {**trainer.state(), **{f"{_EVALUATION}{name}": tensor for name, tensor in evaluation.items()}}
    save_checked(path, tensors, {**identity, "step": str(trainer.step_count)})


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
    kept = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_EVALUATION)}
    trainer.load_state(tensors, int(metadata["step"]))
    return {name.removeprefix(_EVALUATION): tensor for name, tensor in kept.items()}
