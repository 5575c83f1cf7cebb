"""LoRAs for other programs: the same function under other names, the best of a smaller rank, the audio part alone."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sonolora.core.errors import InputError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.convert import FORMS, convert, pictures_unchanged
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_names import diffusers_name, published_name
from sonolora.ltx.lora.lora_stack import apply_lora
from sonolora.ltx.model.transformer import Stream, load_transformer

CPU, F32 = torch.device("cpu"), torch.float32
FIRST, LAST = 0, 2  # blocks of the golden model


def pair(layer, out=64, inputs=64, rank=6, scale=0.2):
    return {
        f"diffusion_model.{layer}.lora_A.weight": scale * normal((rank, inputs), layer, "A"),
        f"diffusion_model.{layer}.lora_B.weight": scale * normal((out, rank), layer, "B"),
    }


@pytest.fixture
def write(tmp_path):
    def write(tensors, metadata=None, name="lora"):
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata)
        return open_lora(tmp_path / f"{name}.safetensors")

    return write


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_update(form, write, tmp_path):
    """Also of a LoRA with an alpha, and of layers that diffusers calls by another name."""
    ff, out = "transformer_blocks.1.audio_ff.net.0.proj", "audio_adaln_single.linear"
    lora = write({**pair(ff, 256), f"diffusion_model.{ff}.alpha": torch.tensor(3.0), **pair(out, 576)}, {"mode": "t2a"})
    result = convert(lora, tmp_path / "new.safetensors", form, dtype=F32)
    new = open_lora(tmp_path / "new.safetensors")
    assert new.layers.keys() == lora.layers.keys() and result.layers == 2 and result.error < 1e-6
    for layer in lora.layers:
        torch.testing.assert_close(
            new.read(layer)(torch.empty(0)), lora.read(layer)(torch.empty(0)), rtol=1e-5, atol=1e-6
        )
        assert new.layers[layer].scale == 1.0
    keys = load_file(tmp_path / "new.safetensors").keys()
    assert any(key.endswith(".alpha") for key in keys) == (form == "kohya"), "diffusers refuses an alpha"
    starts = {"comfyui": "diffusion_model.", "diffusers": "transformer.", "kohya": "lora_unet_"}
    assert all(key.startswith(starts[form]) for key in keys)
    if form == "diffusers":
        assert "transformer.audio_time_embed.linear.lora_A.weight" in keys
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert file.metadata() == {"mode": "t2a", "converted_to": form}


def test_names_of_diffusers_are_read_again():
    for name in ("patchify_proj", "av_ca_a2v_gate_adaln_single.linear", "transformer_blocks.7.audio_attn2.to_out.0"):
        assert published_name(f"transformer.{diffusers_name(name)}") == (name, "transformer.")


def test_a_smaller_rank_is_the_best_one(write, tmp_path):
    layer = "transformer_blocks.0.audio_attn1.to_q"
    lora = write(pair(layer))
    exact = lora.read(layer)(torch.empty(0))
    values = torch.linalg.svdvals(exact)
    for rank in (1, 3, 6, 64):
        result = convert(lora, tmp_path / "small.safetensors", "comfyui", rank=rank, dtype=F32)
        least = (values[rank:].norm() / values.norm()).item()
        assert result.error == pytest.approx(least, abs=2e-6)
        assert result.ranks == (min(rank, 6),)
        small = open_lora(tmp_path / "small.safetensors").read(layer)(torch.empty(0))
        assert ((small - exact).norm() / exact.norm()).item() == pytest.approx(least, abs=2e-6)
    rounded = convert(lora, tmp_path / "half.safetensors", "comfyui", dtype=torch.bfloat16)
    assert 1e-3 < rounded.error < 1e-2, "rounding is part of the error"


def test_other_adapters_become_plain(write, tmp_path):
    layer = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    lokr = write({f"{layer}.lokr_w1": normal((2, 2), "w1"), f"{layer}.lokr_w2": normal((32, 32), "w2")})
    with pytest.raises(InputError, match="holds LoKr in 1 layers: give --rank"):
        convert(lokr, tmp_path / "x.safetensors", "comfyui", dtype=F32)
    result = convert(lokr, tmp_path / "x.safetensors", "comfyui", rank=64, dtype=F32)
    assert result.error < 1e-6 and open_lora(tmp_path / "x.safetensors").layers
    (name,) = lokr.layers
    dora = write({**pair(name), f"{layer}.dora_scale": torch.ones(64, 1)})
    with pytest.raises(InputError, match="is a DoRA"):
        convert(dora, tmp_path / "y.safetensors", "comfyui", dtype=F32)
    assert not (tmp_path / "y.safetensors").exists()


def test_only_audio_leaves_the_rest_out(write, tmp_path):
    own, cross, other = (
        f"transformer_blocks.0.{part}.to_q" for part in ("audio_attn1", "video_to_audio_attn", "attn1")
    )
    lora = write({**pair(own), **pair(cross), **pair(other)})
    result = convert(lora, tmp_path / "audio.safetensors", "comfyui", only_audio=True, dtype=F32)
    assert result.skipped == (other,)
    assert open_lora(tmp_path / "audio.safetensors").layers.keys() == {own, cross}
    with pytest.raises(InputError, match="has no audio layers for comfyui"):
        convert(write(pair(other)), tmp_path / "none.safetensors", "comfyui", only_audio=True, dtype=F32)


@pytest.mark.parametrize(
    ("layer", "shape", "unchanged"),
    [
        (f"transformer_blocks.{LAST}.audio_ff.net.2", (64, 256), True),
        (f"transformer_blocks.{LAST}.video_to_audio_attn.to_q", (64, 64), True),
        ("audio_proj_out", (32, 64), True),
        (f"transformer_blocks.{LAST}.audio_attn1.to_v", (64, 64), False),
        (f"transformer_blocks.{FIRST}.audio_ff.net.2", (64, 256), False),
        (f"transformer_blocks.{FIRST}.video_to_audio_attn.to_v", None, False),
    ],
)
def test_pictures_stay_where_nothing_reaches_them(layer, shape, unchanged, checkpoint, cases, write):
    """Held to the network: the video's velocity of a joint model, to the last bit."""
    assert pictures_unchanged({layer: None}, LAST) is unchanged
    model = load_transformer(checkpoint, video=True, device=CPU, dtype=F32)
    linear = model.get_submodule(layer)
    audio = Stream(
        cases["audio_latents"], torch.arange(cases["audio_latents"].shape[1])[None, None].float() / 25,
        torch.tensor([0.5]), cases["audio_context"],
    )  # fmt: skip
    video_config = model.config.video
    positions = torch.stack([torch.arange(8.0) / 8, torch.full((8,), 16.0), torch.full((8,), 16.0)])[None]
    video = Stream(
        normal((1, 8, video_config.channels), "video"), positions, torch.tensor([0.7]),
        normal((1, 8, video_config.context_dim), "context"),
    )  # fmt: skip
    with torch.no_grad():
        before = model(audio, video)
        apply_lora(model, write(pair(layer, linear.out_features, linear.in_features)), 1.0)
        after = model(audio, video)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1]) is unchanged
    assert shape is None or shape == (linear.out_features, linear.in_features)
