"""Runs in ComfyUI's own Python: loads a LoRA by ComfyUI's loader and writes what it does to each layer.

    python comfyui_script.py COMFYUI_FOLDER BASE LORA STRENGTH OUT_FOLDER

Imports ComfyUI, torch and safetensors, and nothing of Sonolora, which need not be installed there. In: a base's file
with the transformer, a LoRA. Out: `result.json` (version, keys that were not loaded) and `outputs.safetensors`: for
each input width I random inputs `input.<width>` (4, I); for each patched layer `output.<layer>` (4, O), the
input times the change of the weight.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any


class _Messages(logging.Handler):
    """Keeps what the loader says of keys that it does not load."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not loaded" in (text := record.getMessage()):
            self.texts.append(text)


def main() -> None:
    folder, base, lora, number, scratch = sys.argv[1:]
    strength, out = float(number), Path(scratch)
    sys.argv = sys.argv[:1]  # ComfyUI reads options of its own there
    sys.path.insert(0, folder)
    messages = _Messages()
    logging.getLogger().addHandler(messages)
    arguments: Any = __import__("comfy.cli_args", fromlist=["args"]).args
    arguments.cpu = True  # before anything asks for a device
    import torch
    from safetensors.torch import save_file

    sd: Any = __import__("comfy.sd", fromlist=["sd"])
    utils: Any = __import__("comfy.utils", fromlist=["utils"])
    lora_code: Any = __import__("comfy.lora", fromlist=["lora"])
    model = sd.load_diffusion_model(base)
    if model is None:
        raise SystemExit("ComfyUI does not know the model in this file")
    keys = utils.load_torch_file(lora, safe_load=True)
    patched, _ = sd.load_lora_for_models(model, None, keys, strength, 0.0)
    weights = patched.model.state_dict()
    tensors = {}
    generator = torch.Generator().manual_seed(0)
    for key, patches in sorted(patched.patches.items()):
        weight = weights[key].detach().float().cpu()
        change = lora_code.calculate_weight(patches, weight.clone(), key).float() - weight
        name = f"input.{weight.shape[1]}"
        if name not in tensors:
            tensors[name] = torch.randn(4, weight.shape[1], generator=generator)
        layer = key.removeprefix("diffusion_model.").removesuffix(".weight")
        tensors[f"output.{layer}"] = (tensors[name] @ change.T).contiguous()
    save_file(tensors, str(out / "outputs.safetensors"))
    try:
        version = __import__("comfyui_version").__version__
    except ImportError:
        version = "unknown"
    result = {"version": version, "not_loaded": messages.texts, "keys": len(keys)}
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
