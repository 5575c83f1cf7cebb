"""The check in ComfyUI's code, with a small stand-in that has its rules for keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.lora.adapters import add_adapters, save_lora
from sonolora.ltx.lora.convert import convert
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.runs.lora_files.verify_comfyui import verify_comfyui

STAND_IN = Path(__file__).parents[1] / "support" / "comfyui_standin"


@pytest.fixture(scope="module")
def base(shallow_base):
    return find_base(str(shallow_base))


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    """As a run writes it, with values in both halves."""
    model = load_transformer(base.checkpoint, video=False, device=torch.device("cpu"), dtype=torch.float32)
    adapters = add_adapters(model, AUDIO_TARGETS, 8, 0)
    with torch.no_grad():
        adapters.flat.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    save_lora(path, adapters, {"mode": "t2a"})
    return path


def test_our_loras_are_used_whole(base, lora, tmp_path):
    kohya = tmp_path / "kohya.safetensors"
    convert(open_lora(lora), kohya, "kohya", dtype=torch.bfloat16)
    for path in (lora, kohya):
        result = verify_comfyui(STAND_IN, path, base, 0.7)
        assert result.agrees and result.version == "stand-in"
        assert len(result.errors) == result.layers == 10
        assert 0 <= result.worst[1] < 1e-5


def test_what_it_does_not_use_or_uses_otherwise_is_named(base, lora, tmp_path):
    first, second, *_ = sorted(key for key in load_file(lora) if key.endswith("lora_A.weight"))
    tensors = load_file(lora)
    for half in ("A", "B"):  # a name of diffusers, and a scale that only PEFT's settings tell
        key = first.replace("lora_A", f"lora_{half}")
        tensors[key.replace("diffusion_model.", "transformer.")] = tensors.pop(key)
    save_file(tensors, tmp_path / "renamed.safetensors")
    result = verify_comfyui(STAND_IN, tmp_path / "renamed.safetensors", base)
    layer = first.removeprefix("diffusion_model.").removesuffix(".lora_A.weight")
    assert not result.agrees and result.missing == (layer,)
    assert len(result.not_loaded) == 2 and "transformer." in result.not_loaded[0]

    rank = '{"transformer.r": 8, "transformer.lora_alpha": 4}'
    save_file(load_file(lora), tmp_path / "scaled.safetensors", {"lora_adapter_metadata": rank})
    result = verify_comfyui(STAND_IN, tmp_path / "scaled.safetensors", base)
    assert not result.agrees and not result.missing
    assert result.errors[second.removeprefix("diffusion_model.").removesuffix(".lora_A.weight")] == pytest.approx(1)


def test_folders_that_are_not_comfyui(base, lora, tmp_path):
    with pytest.raises(InputError, match=r"is not a ComfyUI folder: there is no comfy/sd\.py"):
        verify_comfyui(tmp_path, lora, base)
    broken = tmp_path / "broken"
    shutil.copytree(STAND_IN, broken)
    (broken / "comfy" / "sd.py").write_text("raise RuntimeError('torch is too old')")
    with pytest.raises(SonoloraError, match=r"could not load it with .*python[\s\S]*torch is too old"):
        verify_comfyui(broken, lora, base)
