"""`sonolora inspect` and `sonolora merge` as they are typed, on the embedded base."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import InputError
from sonolora.core.randomness import normal
from sonolora.ltx.model.transformer import PREFIX, load_transformer
from sonolora.ltx.text.text_encoder import load_text_encoder
from sonolora.ltx.weights.base import find_base

LAYER = "transformer_blocks.0.audio_attn1.to_q"


@pytest.fixture
def lora(tmp_path):
    """It changes one layer by a tenth."""
    weight = load_file(find_base("tiny").checkpoint.path)[f"{PREFIX}{LAYER}.weight"].float()
    halves = {"A": normal((4, weight.shape[1]), "A"), "B": normal((weight.shape[0], 4), "B")}
    halves["B"] *= 0.1 * weight.norm() / (halves["B"] @ halves["A"]).norm()
    tensors = {f"diffusion_model.{LAYER}.lora_{letter}.weight": half for letter, half in halves.items()}
    save_file(tensors, tmp_path / "lora.safetensors", {"mode": "t2a", "trigger_phrase": "f0ley\x1b[2J"})
    return tmp_path / "lora.safetensors"


def sonolora(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_inspect_says_what_a_lora_is(lora):
    done = sonolora("inspect", lora)
    assert done.exit_code == 0
    for words in ("t2a, trigger phrase f0ley?[2J", "diffusion_model.*.lora_A/lora_B; F32", "1 layers, rank 4", "fits"):
        assert words in done.stdout
    assert "audio self-attention" in done.stdout and "warning" not in done.stdout and "\x1b" not in done.stdout
    found = json.loads(sonolora("inspect", lora, "--json").stdout)
    assert found["layers"][0]["name"] == LAYER and found["total"]["change"] == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("layer", ["lora_unet_down_blocks_0_attn", f"diffusion_model.{LAYER}"])
def test_inspect_of_a_lora_of_another_network(tmp_path, layer):
    """Of which no layer is known, or whose layers are of another width."""
    size = 24
    halves = {"A": normal((4, size), "A"), "B": normal((size, 4), "B")}
    path = tmp_path / "lora.safetensors"
    save_file({f"{layer}.lora_{letter}.weight": half for letter, half in halves.items()}, path)
    done = sonolora("inspect", path)
    assert done.exit_code == 0
    assert "fits        no: 1 layers are not used" in done.stdout and "warning: not used" in done.stdout


def test_merge_makes_a_base(lora, tmp_path):
    folder = tmp_path / "merged"
    folder.mkdir()
    arguments = ("merge", "--lora", lora, "--strength", 0.5, "--base", "tiny", "--out", folder / "m.safetensors")
    done = sonolora(*arguments)
    assert done.exit_code == 0
    assert "1 layers changed" in done.stdout and "rounding:" in done.stdout
    assert "in size like a change of the strength by 0" in done.stdout
    tiny = find_base("tiny")
    shutil.copytree(tiny.text_encoder, folder / "text_encoder")
    merged = find_base(str(folder))
    assert merged.fingerprint != tiny.fingerprint
    cpu, dtype = torch.device("cpu"), torch.float32
    load_text_encoder(merged.checkpoint, merged.text_encoder, video=True, device=cpu, dtype=dtype)
    old, new = (
        load_transformer(base.checkpoint, video=True, device=cpu, dtype=dtype).state_dict() for base in (tiny, merged)
    )
    assert [name for name in old if not torch.equal(old[name], new[name])] == [f"{LAYER}.weight"]
    with pytest.raises(InputError, match="exists; choose another name"):
        sonolora(*arguments)
    assert sonolora(*arguments, "--overwrite").exit_code == 0


@pytest.mark.parametrize("strengths", [(1, 2), ("nan",)])
def test_strengths_must_be_numbers_one_for_each(strengths, lora, tmp_path):
    said = [word for strength in strengths for word in ("--strength", strength)]
    with pytest.raises(InputError, match="strength"):
        sonolora("merge", "--lora", lora, *said, "--base", "tiny", "--out", tmp_path / "m.safetensors")
