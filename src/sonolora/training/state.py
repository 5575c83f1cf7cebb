"""Training states on disk: what a run continues from when the power went.

A state is one safetensors file, `step-000250.safetensors`, written under another name and renamed when complete.
In: a `Trainer`. Out: files, of which the newest few are kept; or a trainer that continues from the newest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from sonolora.core.atomic_files import make_folder
from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.training.trainer import Trainer

_NAME = re.compile(r"step-(\d{6})\.safetensors")


def save_state(folder: Path, trainer: Trainer, identity: Mapping[str, str], *, keep: int) -> Path:
    """Write the trainer's state; remove all but the newest `keep`. `identity` says which run it belongs to.

    Raises `OutputError` when it cannot be written; the older states are then untouched.
    """
    make_folder(folder)
    path = folder / f"step-{trainer.step_count:06d}.safetensors"
    save_tensors(path, trainer.state(), {**identity, "step": str(trainer.step_count)})
    for old in _states(folder)[:-keep]:
        old.unlink()
    return path


def load_newest_state(folder: Path, trainer: Trainer, identity: Mapping[str, str]) -> bool:
    """Continue from the newest state; False when there is none.

    Raises `CheckpointError` when the state is damaged or belongs to other data, settings or another base: a run
    never starts over in silence.
    """
    states = _states(folder)
    if not states:
        return False
    path = states[-1]
    found = Checkpoint.open(path).metadata
    for key, value in identity.items():
        if str(found.get(key)) != value:
            raise CheckpointError(f"{path} is of another run: its {key} is {found.get(key)}, this run's is {value}")
    trainer.load_state(load_file(path), int(found["step"]))
    return True


def _states(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
