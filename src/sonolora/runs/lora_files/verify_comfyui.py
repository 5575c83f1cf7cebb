"""Checks a LoRA in ComfyUI's own code: that its loader takes every key, and what it does to every layer.

In: a ComfyUI folder, a LoRA, a base. Out: a `ComfyUICheck`. ComfyUI runs in a process of its own, with its own Python,
on the CPU (`comfyui_script`); its outputs are compared with what Sonolora computes from the same file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.lora.lora_file import LoRAFile, open_lora
from sonolora.ltx.lora.lora_names import weight_name
from sonolora.ltx.weights.base import Base
from sonolora.ltx.weights.checkpoint import read_tensors
from sonolora.ltx.weights.parts import PARTS
from sonolora.ltx.weights.stored_tensor import file_of

TOLERANCE = 1e-3  # of a layer's output; float32 gives 1e-6, a LoRA merged in half precision more
_SCRIPT = Path(__file__).with_name("comfyui_script.py")
_PYTHONS = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "../python_embeded/python.exe")
_LAST_LINES = 5


@dataclass(frozen=True)
class ComfyUICheck:
    """`errors`: by layer ||theirs - ours|| / ||ours||. `missing`: layers of the LoRA that ComfyUI does not change."""

    version: str
    layers: int  # of the LoRA
    errors: Mapping[str, float]
    missing: tuple[str, ...]
    not_loaded: tuple[str, ...]  # what ComfyUI's loader says of keys

    @property
    def worst(self) -> tuple[str, float]:
        """The layer that differs most; an empty name where none was compared."""
        return max(self.errors.items(), key=lambda entry: entry[1], default=("", 0.0))

    @property
    def agrees(self) -> bool:
        """Whether ComfyUI uses the whole LoRA as Sonolora does."""
        return bool(self.errors) and not self.missing and not self.not_loaded and self.worst[1] < TOLERANCE


def verify_comfyui(
    folder: Path, lora_path: Path, base: Base, strength: float = 1.0, python: Path | None = None
) -> ComfyUICheck:
    """Raises `InputError` for a folder that is not ComfyUI, `SonoloraError` with its last words if ComfyUI fails."""
    if not (folder / "comfy" / "sd.py").is_file():
        raise InputError.of("comfyui", f"{folder} is not a ComfyUI folder: there is no comfy/sd.py in it")
    lora = open_lora(lora_path)
    own = next((folder / name for name in _PYTHONS if (folder / name).is_file()), Path(sys.executable))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [folder.absolute(), _transformer_file(base), lora_path.absolute(), strength, scratch]
        command = [str(python or own), str(_SCRIPT), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        result = Path(scratch) / "result.json"
        if done.returncode or not result.is_file():
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
            raise SonoloraError(f"ComfyUI in {folder} could not load it with {command[0]}:\n{said}")
        found = json.loads(result.read_bytes())
        outputs = load_file(Path(scratch) / "outputs.safetensors")
    errors = _compare(lora, base, strength, outputs)
    missing = tuple(layer for layer in lora.layers if f"output.{layer}" not in outputs)
    return ComfyUICheck(found["version"], len(lora.layers), errors, missing, tuple(found["not_loaded"]))


def _transformer_file(base: Base) -> Path:
    """The file with the transformer."""
    prefix = PARTS["the transformer"]
    info = next(info for name, info in base.checkpoint.tensors.items() if name.startswith(prefix))
    return file_of(info, base.checkpoint.path).absolute()


def _compare(lora: LoRAFile, base: Base, strength: float, outputs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    names = {weight_name(layer): layer for layer in lora.layers if f"output.{layer}" in outputs}
    errors = {}
    for name, weight in read_tensors(base.checkpoint, names, device=torch.device("cpu"), dtype=torch.float32):
        layer = names[name]
        ours = outputs[f"input.{weight.shape[1]}"] @ (strength * lora.read(layer)(weight)).T
        difference = (outputs[f"output.{layer}"] - ours).norm()
        errors[layer] = float(difference / ours.norm()) if ours.any() else float(difference)
    return errors
