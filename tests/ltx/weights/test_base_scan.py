"""What is found in a ComfyUI installation, and that the files found together are the base they were cut from."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stored_forms import block_linears, scaled_fp8

from sonolora.core.errors import SonoloraError
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights import comfyui_folders
from sonolora.ltx.weights.base import add_base, find_base
from sonolora.ltx.weights.base_scan import scan
from sonolora.ltx.weights.comfyui_folders import extra_folders, installations, model_folders
from sonolora.ltx.weights.parts import TRANSFORMER

TINY = find_base("tiny")


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """With a whole checkpoint, a split fp8 one whose audio VAE is elsewhere, a LoRA, and files of other models."""
    root = tmp_path_factory.mktemp("ComfyUI")
    weights = load_file(TINY.checkpoint.path)
    with safe_open(TINY.checkpoint.path, "pt") as file:
        header = file.metadata()

    def write(path, tensors, metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)

    def starting_with(*prefixes):
        return {name: tensor for name, tensor in weights.items() if name.startswith(prefixes)}

    models = root / "models"
    write(models / "checkpoints" / "ltx-2.3-22b-dev.safetensors", weights, header)
    stored, _ = scaled_fp8(starting_with(TRANSFORMER), block_linears(starting_with(TRANSFORMER)))
    connectors = {name: tensor for name, tensor in stored.items() if "embeddings_connector" in name}
    rest = {name.removeprefix(TRANSFORMER): stored[name] for name in stored.keys() - connectors.keys()}
    write(models / "diffusion_models" / "ltx 2.3 fp8.safetensors", rest, header)
    projections = starting_with("text_embedding_projection.")
    write(models / "text_encoders" / "ltx-2.3_text_projection.safetensors", {**projections, **connectors}, {})
    write(models / "vae" / "ltx23_video_vae.safetensors", starting_with("vae."), {})
    write(root / "elsewhere" / "sound" / "ltx23_audio_vae.safetensors", starting_with("audio_vae.", "vocoder."), {})
    lora = {"diffusion_model.transformer_blocks.0.audio_attn1.to_q.lora_A.weight": torch.ones(1, 64)}
    write(models / "loras" / "mine.safetensors", lora, {})
    write(models / "checkpoints" / "sd15.safetensors", {"model.diffusion_model.input_blocks.0.w": torch.ones(2)}, {})
    write(models / "vae" / "sd.safetensors", {"decoder.up.0.weight": torch.ones(2)}, {})
    (models / "diffusion_models" / "ltx-2.3-Q4.gguf").write_bytes(b"GGUF" + bytes(64))
    (models / "diffusion_models" / "other-Q4.gguf").write_bytes(b"GGUF" + bytes(64))
    shutil.copytree(TINY.text_encoder, models / "text_encoders" / "gemma-3")
    (models / "text_encoders" / "clip_l").mkdir()
    (models / "text_encoders" / "clip_l" / "config.json").write_text("{}")
    vae = "    # where sounds are\n    sound/\n    missing/\n"
    section = f"other:\n  base_path: elsewhere\n  vae: |\n{vae}  controlnet: x\nnone:\n"
    (root / "extra_model_paths.yaml").write_text(section)
    return root


def test_every_file_is_named_for_what_it_holds(installation):
    found = scan(model_folders(installation))
    assert {file.path.name: (file.what, file.precision) for file in found.files} == {
        "ltx-2.3-22b-dev.safetensors": ("checkpoint", "bfloat16"),
        "ltx 2.3 fp8.safetensors": ("transformer", "float8 with scales"),
        "ltx-2.3_text_projection.safetensors": ("text connectors, text projections", "bfloat16"),
        "ltx23_video_vae.safetensors": ("video VAE", "bfloat16"),
        "ltx23_audio_vae.safetensors": ("audio VAE, vocoder", "bfloat16"),
        "mine.safetensors": ("LoRA", ""),
        "ltx-2.3-Q4.gguf": ("not read", ""),
        "gemma-3": ("text encoder", "bfloat16"),
    }
    assert found.others == 4


def test_what_makes_a_base_together_is_one(installation, monkeypatch, tmp_path):
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    found = scan(model_folders(installation))
    assert [(base.name, base.missing) for base in found.bases] == [("ltx-2.3-22b-dev", ()), ("ltx-2.3-fp8", ())]
    for base in found.bases:
        add_base(base.name, [str(file.path) for file in base.files], str(base.text_encoders[0].path))
    loaded = [
        load_transformer(find_base(name).checkpoint, video=True, device=torch.device("cpu"), dtype=torch.float32)
        for name in ("tiny", *(base.name for base in found.bases))
    ]
    tiny, whole, split = (model.state_dict() for model in loaded)
    assert all(torch.equal(tiny[name], whole[name]) for name in tiny)
    assert tiny.keys() == split.keys()
    linears = set(block_linears(tiny))
    assert all(torch.equal(tiny[name], split[name]) for name in tiny.keys() - linears)
    assert all((tiny[name] - split[name]).norm() <= 0.04 * tiny[name].norm() for name in linears)


def test_what_is_missing_is_named(installation, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("diffusion_models/ltx 2.3 fp8.safetensors", "vae/ltx23_video_vae.safetensors"):
        shutil.copy(installation / "models" / name, folder)
    (base,) = scan(model_folders(folder)).bases
    assert not base.is_complete
    assert base.missing == (
        "the text connectors",
        "the text projections",
        "the audio VAE",
        "the vocoder",
        "a text encoder (Gemma 3 12B)",
    )


def test_installations_are_found_by_themselves(installation, monkeypatch, tmp_path):
    monkeypatch.setattr(comfyui_folders.Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    before = installations()
    (tmp_path / "ComfyUI").symlink_to(installation)
    assert installations() == [tmp_path / "ComfyUI", *before]
    monkeypatch.setenv("COMFYUI_PATH", str(installation))
    assert installations() == [installation, *before], "the same one is listed once"
    assert model_folders(tmp_path) == model_folders(tmp_path / "ComfyUI")


def test_paths_that_cannot_be_read_name_the_file(tmp_path):
    file = tmp_path / "extra_model_paths.yaml"
    for text in ("a: [", "- a", "a: 3"):
        file.write_text(text)
        with pytest.raises(SonoloraError, match=r"extra_model_paths\.yaml: not a list of model paths"):
            extra_folders(file)
    with pytest.raises(SonoloraError, match="no such folder"):
        model_folders(tmp_path / "none")
