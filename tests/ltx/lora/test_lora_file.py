"""LoRA files of every maker: names held to diffusers' conversion, scales to PEFT, and bad files refused by name."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_ltx2_lora_to_diffusers
from safetensors.torch import save_file

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.lora_file import linear_layers, misfits, open_lora
from sonolora.ltx.lora.lora_names import published_name
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.tensor_table import published_tensors

LAYER = "transformer_blocks.0.audio_attn1.to_q"
KEY = f"diffusion_model.{LAYER}"
DOWN, UP = torch.zeros(8, 64), torch.zeros(64, 8)


@pytest.fixture
def opened(tmp_path):
    def write(tensors, metadata=None):
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        save_file(tensors, tmp_path / "lora.safetensors", metadata)
        return open_lora(tmp_path / "lora.safetensors")

    return write


def test_diffusers_names_mean_the_published_layers(checkpoint):
    published = [name for name in linear_layers(checkpoint) if "embeddings_connector" not in name]
    assert len(published) > 100
    for name in published:
        (theirs,) = _convert_non_diffusers_ltx2_lora_to_diffusers({f"diffusion_model.{name}.lora_A.weight": DOWN})
        assert theirs.startswith("transformer.")
        assert published_name(theirs.removesuffix(".lora_A.weight")) == (name, "transformer.")
    assert any("time_embed" in name or "adaln_single" in name for name in published), "renamed ones are among them"


def test_every_flattened_name_has_one_meaning():
    weights = [name for name in published_tensors() if name.startswith(PREFIX) and name.endswith(".weight")]
    layers = [name.removeprefix(PREFIX).removesuffix(".weight") for name in weights]
    assert len({name.replace(".", "_") for name in layers}) == len(layers)
    for name in (LAYER, "transformer_blocks.47.audio_ff.net.0.proj", "audio_patchify_proj", "adaln_single.linear"):
        flat = name.replace(".", "_")
        assert published_name(f"lora_unet_{flat}")[0] == published_name(f"lora_unet_model_{flat}")[0] == name


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
@pytest.mark.parametrize("halves", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_prefixes_styles_and_dtypes(prefix, halves, dtype, opened):
    down, up = normal((4, 64), "A").to(dtype), normal((64, 4), "B").to(dtype)
    lora = opened({f"{prefix}{LAYER}.{halves[0]}.weight": down, f"{prefix}{LAYER}.{halves[1]}.weight": up})
    assert list(lora.pairs) == [LAYER]
    read = lora.read(LAYER)
    assert torch.equal(read[0], down.float()) and torch.equal(read[1], up.float())
    assert (lora.pairs[LAYER].scale, lora.pairs[LAYER].rank, lora.pairs[LAYER].shape) == (1.0, 4, (64, 64))
    assert lora.form == f"{prefix}*.{halves[0]}/{halves[1]}"


@pytest.mark.parametrize("alpha", [torch.tensor(3.0), torch.tensor([3], dtype=torch.int64), torch.tensor(3).bfloat16()])
def test_alpha_is_peft_scale(alpha, opened):
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(64, 64)})
    model = peft.inject_adapter_in_model(peft.LoraConfig(r=7, lora_alpha=3, target_modules=["layer"]), model)
    with torch.no_grad():
        model["layer"].lora_B["default"].weight.copy_(normal((64, 7), "B"))
    down, up = (getattr(model["layer"], f"lora_{letter}")["default"].weight.detach().clone() for letter in "AB")
    flat = f"lora_unet_model_{LAYER.replace('.', '_')}"
    lora = opened({f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": alpha})
    assert lora.pairs[LAYER].scale == 3 / 7, "exactly, and not rounded into the matrices"
    assert all(map(torch.equal, lora.read(LAYER), (down, up)))
    assert lora.form == "lora_unet_model_*.lora_down/lora_up with .alpha"
    theirs = model["layer"].get_delta_weight("default").detach()
    torch.testing.assert_close(lora.pairs[LAYER].scale * up @ down, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 4, "r": 8}, 0.5),
        ({"lora_alpha": 4, "use_rslora": True}, 4 / 8**0.5),
        ({"lora_alpha": 4, "alpha_pattern": {"audio_attn1.to_q": 2}}, 0.25),
        ({"lora_alpha": 4, "alpha_pattern": {"other.*": 2, "^transformer_blocks.0.*": 16}}, 2.0),
        ({}, 1.0),
    ],
)
def test_settings_of_peft_in_the_header_count(settings, scale, opened):
    said = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}
    key = f"transformer.{LAYER}"
    assert opened({f"{key}.lora_A.weight": DOWN, f"{key}.lora_B.weight": UP}, said).pairs[LAYER].scale == scale


def test_metadata_stays_text(opened):
    said = {"trigger_phrase": "[1]", "config": '{"a": "ü"}', "mode": "t2a"}
    lora = opened({f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP}, said)
    assert {key: json.loads(value) if key != "mode" else value for key, value in lora.metadata.items()} == {
        "trigger_phrase": [1],
        "config": {"a": "ü"},
        "mode": "t2a",
    }


def pair(down=DOWN, up=UP, **more):
    return {f"{KEY}.lora_A.weight": down, f"{KEY}.lora_B.weight": up, **more}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{KEY}.lora_A.weight": DOWN}, r"to_q\.lora_A\.weight lacks .* expected .*to_q\.lora_B\.weight beside it"),
        ({f"{KEY}.lora_up.weight": UP}, r"to_q\.lora_up\.weight lacks .* expected .*to_q\.lora_down\.weight"),
        ({**pair(), "x.alpha": torch.ones(1)}, r"x\.alpha stands alone"),
        (pair(up=torch.zeros(64, 4)), r"lora_A\.weight is of rank 8 \(8, 64\), lora_B of rank 4 \(64, 4\)"),
        (pair(down=torch.zeros(8, 64, 1)), r"lora_A\.weight is of shape \(8, 64, 1\); expected a matrix"),
        (pair(down=torch.zeros(0, 64), up=torch.zeros(64, 0)), "expected a matrix"),
        (pair(down=DOWN.to(torch.int8)), "stored as I8; readable are BF16, F16"),
        (pair(**{f"{KEY}.alpha": torch.ones(2)}), r"\.alpha is of shape \(2,\); expected one number"),
        (pair(**{f"{KEY}.alpha": torch.tensor(float("nan"))}), "expected a finite one"),
        (pair(what=torch.zeros(1)), "unknown key what; a LoRA holds"),
        (pair(**{f"{KEY}.dora_scale": torch.zeros(64)}), r"unknown key .*dora_scale, which is of a DoRA"),
        (pair(**{f"{KEY}.diff_b": torch.zeros(64)}), "unknown key .*diff_b, which is a whole difference"),
        (pair(**{f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}), "changes .*to_q twice"),
        (pair(**{f"{KEY}.lora_down.weight": DOWN}), "goes with .*; expected one pair"),
        ({"other.weight": UP}, r"not a LoRA: it holds other\.weight"),
        ({}, "not a LoRA: it holds no tensor"),
    ],
)
def test_bad_files_are_refused_by_file_key_and_expectation(tensors, words, opened):
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(tensors)
    assert "lora.safetensors: " in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_cannot_be_read_are_refused(opened):
    for alpha in ({"lora_alpha": "much"}, {"alpha_pattern": {"(": 1}}, {"alpha_pattern": [1]}):
        with pytest.raises(CheckpointError, match="lora_adapter_metadata has no alpha that can be read"):
            opened(pair(), {"lora_adapter_metadata": json.dumps(alpha)})


def test_a_checkpoint_is_not_a_lora(checkpoint):
    assert any(name.endswith(".alpha") for name in checkpoint.tensors), "of an activation"
    with pytest.raises(CheckpointError, match="this is a model checkpoint, not a LoRA"):
        open_lora(checkpoint.path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is a text\n" * 10, b"\x10\0\0\0\0\0\0\0" + b"[" * 16, b"PK\x03\x04"]
)
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: not a safetensors file"):
        open_lora(tmp_path / "lora.safetensors")


def test_a_truncated_file_is_refused(opened):
    path = opened(pair()).path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="incomplete or damaged"):
        open_lora(path)


def test_nan_is_refused_when_it_is_read(opened):
    lora = opened(pair(up=torch.full((64, 8), torch.nan)))
    assert lora.read(LAYER, finite=False)[1].isnan().all()
    with pytest.raises(CheckpointError, match=f"NaN or infinity for {LAYER}"):
        lora.read(LAYER)


def test_misfits_are_named(opened, checkpoint):
    lora = opened({**pair(), "a.b.lora_A.weight": DOWN, "a.b.lora_B.weight": UP})
    layers = linear_layers(checkpoint)
    assert misfits(lora, layers) == {"a.b": "the base has no such layer"}
    assert misfits(lora, {**layers, "a.b": (64, 32)}) == {
        "a.b": "made for a layer of shape (64, 64), the base wants (64, 32)"
    }
