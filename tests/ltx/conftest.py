"""A changed copy of the golden checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from sonolora.ltx.weights.checkpoint import Checkpoint


@pytest.fixture
def rewrite(checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., Checkpoint]:
    """Write the golden file with changed tensors (None: without it) and another config, if given."""

    def write(changes: Mapping[str, Tensor | None], config: Mapping[str, Any] | None = None) -> Checkpoint:
        tensors = {**load_file(checkpoint.path), **changes}
        path = tmp_path / "changed.safetensors"
        metadata = {"config": json.dumps(config or checkpoint.config), "model_version": "2.3.0"}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata)
        return Checkpoint.open(path)

    return write
