"""The embedded base with its first layers alone: where wiring is tested, a step need not take six of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


def write_shallow_base(tiny: Path, folder: Path, layers: int = 1) -> Path:
    """Write a base folder from that of `tiny`. Its fingerprint follows from these two alone."""
    (source,) = tiny.glob("*.safetensors")
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    config["transformer"]["num_layers"] = layers
    tensors = {
        name: tensor
        for name, tensor in load_file(source).items()
        if (match := BLOCK.search(name)) is None or "connector" in name or int(match[1]) < layers
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "shallow.safetensors", {**metadata, "config": json.dumps(config)})
    (folder / "text_encoder").symlink_to(tiny / "text_encoder")
    return folder
