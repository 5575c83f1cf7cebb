"""A training state as a file: what a run continues from.

In: a `Trainer`. Out: a safetensors file; or a trainer that continues exactly where another one was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file

from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.training.trainer import Trainer

VERSION = "identity_version"  # of an identity; those of version 0.1 have none


def save_state(path: Path, trainer: Trainer, identity: Mapping[str, str]) -> None:
    """Write the trainer's state, atomically. `identity` says which run it belongs to.

    Raises `OutputError` when it cannot be written.
    """
    save_tensors(path, trainer.state(), {**identity, "step": str(trainer.step_count)})


def load_state(path: Path, trainer: Trainer, identities: Sequence[Mapping[str, str]]) -> None:
    """Continue from a state. `identities`: what the run's states say of themselves, in each version's form.

    Raises `CheckpointError` when the state is damaged or belongs to other data, settings or another base: a run never
    starts over in silence.
    """
    metadata = Checkpoint.open(path).metadata
    version = metadata.get(VERSION)
    identity = next((one for one in identities if one.get(VERSION) == version), None)
    if identity is None:
        raise CheckpointError(f"{path} was written by a newer version of Sonolora: continue the run with that one")
    for key, value in identity.items():
        if str(metadata.get(key)) != value:
            raise CheckpointError(f"{path} is of another run: its {key} is {metadata.get(key)}, this run's is {value}")
    trainer.load_state(load_file(path), int(metadata["step"]))
