"""Adapter files of other trainers: names as diffusers converts them, updates as PEFT merges them, bad files refused."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_ltx2_lora_to_diffusers
from safetensors.torch import save_file

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.layer_kinds import TEXT, layer_kind
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_fit import linear_layers, summarise, unused_layers
from sonolora.ltx.lora.lora_names import published_name
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.tensor_table import published_tensors

LAYER = "transformer_blocks.0.audio_attn1.to_q"
KEY = f"diffusion_model.{LAYER}"
DOWN, UP = torch.zeros(8, 64), torch.zeros(64, 8)


def pair(down=DOWN, up=UP, **more):
    return {f"{KEY}.lora_A.weight": down, f"{KEY}.lora_B.weight": up, **more}


@pytest.fixture
def opened(tmp_path):
    def write(tensors, metadata=None):
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        save_file(tensors, tmp_path / "lora.safetensors", metadata)
        return open_lora(tmp_path / "lora.safetensors")

    return write


def test_diffusers_names_mean_the_published_layers(checkpoint):
    published = [name for name in linear_layers(checkpoint) if layer_kind(name) != TEXT]
    assert len(published) > 100
    for name in published:
        (theirs,) = _convert_non_diffusers_ltx2_lora_to_diffusers({f"diffusion_model.{name}.lora_A.weight": DOWN})
        assert theirs.startswith("transformer.")
        assert published_name(theirs.removesuffix(".lora_A.weight")) == (name, "transformer.")
    assert any("time_embed" in name or "adaln_single" in name for name in published), "renamed ones are among them"


def test_a_foreign_prefix_is_warned_of(opened):
    for prefix in ("diffusion_model.", "lora_unet.", "base_model.model.", ""):
        name = prefix + LAYER
        tensors = {f"{name}.lora_A.weight": DOWN, f"{name}.lora_B.weight": UP, f"{name}.alpha": torch.tensor(8.0)}
        assert opened(tensors).warnings == ()
    other = LAYER.replace("to_q", "to_k")
    tensors = {f"foo.{one}.lora_{half}.weight": v for one in (LAYER, other) for half, v in (("A", DOWN), ("B", UP))}
    (warning,) = opened(tensors).warnings
    assert warning.startswith("2 of its layers have names that begin with foo., which no trainer")
    assert "expected diffusion_model., transformer., base_model.model., lora_unet_, lycoris_ or no prefix" in warning


def test_every_flattened_name_has_one_meaning():
    weights = [name for name in published_tensors() if name.startswith(PREFIX) and name.endswith(".weight")]
    layers = [name.removeprefix(PREFIX).removesuffix(".weight") for name in weights]
    assert len({name.replace(".", "_") for name in layers}) == len(layers)
    for name in (LAYER, "transformer_blocks.47.audio_ff.net.0.proj", "audio_patchify_proj", "adaln_single.linear"):
        flat = name.replace(".", "_")
        for prefix in (
            "lora_unet_",
            "lora_unet_model_",
            "lycoris_",
            "lora_transformer_",
            "lycoris_model_diffusion_model_",
        ):
            assert published_name(prefix + flat) == (name, prefix)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (f"base_model.model.{LAYER}", LAYER),
        (f"base_model.model.model.diffusion_model.{LAYER}", LAYER),
        (f"lora_unet.{LAYER}", LAYER),
        (f"anything.{LAYER}", LAYER),
        (f"model.diffusion_model.{LAYER}", LAYER),
        ("base_model.model.audio_patchify_proj", "audio_patchify_proj"),
        ("lycoris_audio_proj_in", "audio_patchify_proj"),
        (LAYER.replace("blocks.0", "blocks.99"), LAYER.replace("blocks.0", "blocks.99")),
        ("diffusion_model.text_embedding_projection.audio_aggregate_embed",
         "text_embedding_projection.audio_aggregate_embed"),
        ("audio_embeddings_connector.transformer_1d_blocks.3.ff.net.2",
         "audio_embeddings_connector.transformer_1d_blocks.3.ff.net.2"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", None),
        ("unet.up_blocks.1.proj_out", None),
        ("double_blocks.0.img_attn.proj", None),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", None),
    ],
)  # fmt: skip
def test_any_prefix_before_a_published_name(layer, name):
    assert published_name(layer) == (None if name is None else (name, layer[: -len(name)]) if layer.endswith(name)
                                     else (name, "lycoris_"))  # fmt: skip


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
@pytest.mark.parametrize("halves", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_prefixes_styles_and_dtypes(prefix, halves, dtype, opened):
    down, up = normal((4, 64), "A").to(dtype), normal((64, 4), "B").to(dtype)
    lora = opened({f"{prefix}{LAYER}.{halves[0]}.weight": down, f"{prefix}{LAYER}.{halves[1]}.weight": up})
    assert list(lora.layers) == [LAYER] and lora.layers[LAYER].is_plain_lora
    read = lora.read_pair(LAYER)
    assert torch.equal(read[0], down.float()) and torch.equal(read[1], up.float())
    assert (lora.layers[LAYER].scale, lora.layers[LAYER].rank, lora.layers[LAYER].shape) == (1.0, 4, (64, 64))
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
    assert lora.layers[LAYER].scale == 3 / 7, "exactly, and not rounded into the matrices"
    assert all(map(torch.equal, lora.read_pair(LAYER), (down, up)))
    assert lora.form == "lora_unet_model_*.lora_down/lora_up with .alpha"
    theirs = model["layer"].get_delta_weight("default").detach()
    torch.testing.assert_close(lora.layers[LAYER].scale * up @ down, theirs, atol=1e-6, rtol=1e-5)


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
    assert opened({f"{key}.lora_A.weight": DOWN, f"{key}.lora_B.weight": UP}, said).layers[LAYER].scale == scale


def test_metadata_stays_text(opened):
    said = {"trigger_phrase": "[1]", "config": '{"a": "ü"}', "mode": "t2a"}
    lora = opened({f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP}, said)
    assert {key: json.loads(value) if key != "mode" else value for key, value in lora.metadata.items()} == {
        "trigger_phrase": [1],
        "config": {"a": "ü"},
        "mode": "t2a",
    }


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{KEY}.lora_A.weight": DOWN}, r"to_q\.lora_A\.weight has no lora_B beside it; the layer is incomplete"),
        ({f"{KEY}.lora_up.weight": UP}, r"to_q\.lora_up\.weight has no lora_A beside it"),
        ({f"{KEY}.hada_w1_a": UP, f"{KEY}.hada_w1_b": DOWN}, r"hada_w1_a has no w2_a beside it"),
        ({f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_w2_a": UP}, r"lokr_w1 has no w2_b beside it"),
        ({**pair(), "x.alpha": torch.ones(1)}, r"x\.alpha has no factors beside it"),
        ({**pair(), "x.dora_scale": torch.ones(1)}, r"x\.dora_scale has no factors beside it"),
        (pair(up=torch.zeros(64, 4)), r"do not fit together: lora_A \(8, 64\), lora_B \(64, 4\)"),
        (pair(down=torch.zeros(8, 64, 1)), r"lora_A \(8, 64, 1\), lora_B \(64, 8\) \(expected matrices\)"),
        (pair(down=torch.zeros(0, 64), up=torch.zeros(64, 0)), "expected matrices"),
        (pair(**{f"{KEY}.dora_scale": torch.zeros(63)}), r"a magnitude has shape \(63,\)"),
        (pair(down=DOWN.to(torch.int8)), "stored as I8; supported are BF16, F16"),
        (pair(**{f"{KEY}.alpha": torch.ones(2)}), r"\.alpha has shape \(2,\); expected one number"),
        (pair(**{f"{KEY}.alpha": torch.tensor(float("nan"))}), "expected a finite one"),
        (pair(**{f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}), "to_q occurs twice"),
        (pair(**{f"{KEY}.lora_down.weight": DOWN}), "has both .*; expected one pair"),
        (pair(**{f"{KEY}.hada_w1_a": UP}), r"mixes hada_w1_a and lora_A and lora_B; expected one kind"),
        ({f"{KEY}.oft_blocks": UP}, r"oft_blocks belongs to an OFT, which Sonolora does not read"),
        ({"other.weight": UP}, r"not a LoRA: it holds other\.weight"),
        ({}, "not a LoRA: it holds no tensor"),
    ],
)
def test_bad_files_are_refused_by_file_key_and_expectation(tensors, words, opened):
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(tensors)
    assert "lora.safetensors: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "skipped"),
    [
        ({"what": torch.zeros(1)}, {"what": "not a key of an adapter"}),
        ({f"{KEY}.diff_b": torch.zeros(64)}, {f"{KEY}.diff_b": "an update of a bias"}),
        ({"a.b.lora_A.weight": DOWN, "a.b.lora_B.weight": UP}, {"a.b": "not a layer of LTX-2.3"}),
        (
            {f"{KEY}2.{name}": UP for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1")},
            {
                f"{KEY}2.hada_t1": "a Tucker decomposition, which is for convolutions",
                f"{KEY}2": "a Tucker decomposition, which is for convolutions",
            },
        ),
    ],
)
def test_what_cannot_be_read_is_skipped_and_named(more, skipped, opened):
    lora = opened(pair(**more))
    assert list(lora.layers) == [LAYER] and lora.skipped == skipped


def test_settings_that_cannot_be_read_are_refused(opened):
    for alpha in ({"lora_alpha": "much"}, {"alpha_pattern": {"(": 1}}, {"alpha_pattern": [1]}):
        with pytest.raises(CheckpointError, match="no valid alpha in PEFT's settings"):
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
    assert lora.read_pair(LAYER, finite=False)[1].isnan().all()
    with pytest.raises(CheckpointError, match=f"NaN or infinity for {LAYER}"):
        lora.read(LAYER)


def test_unused_layers_are_named(opened, checkpoint):
    other = LAYER.replace("blocks.0", "blocks.9")
    lora = opened({**pair(), f"{other}.lora_A.weight": DOWN, f"{other}.lora_B.weight": UP})
    layers = linear_layers(checkpoint)
    assert unused_layers(lora, layers) == {other: "the base has no such layer"}
    assert unused_layers(lora, {**layers, other: (64, 32)}) == {other: "its shape is (64, 64), in the base (64, 32)"}
    assert unused_layers(lora, {**layers, other: (64, 64)}) == {}


def test_reasons_are_summarised():
    reasons = {"a": "gone", "b": "other", "c": "gone", "d": "gone"}
    assert summarise(reasons) == ["a and 2 more: gone", "b: other"]


def peft_file(folder, config):
    """A model of one layer under an adapter of PEFT, saved as PEFT does: the file, and the change of its weight."""
    model = torch.nn.Module()
    model.transformer_blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"audio_attn1": torch.nn.ModuleDict()})])
    model.transformer_blocks[0]["audio_attn1"]["to_q"] = torch.nn.Linear(64, 48, bias=False)
    weight = model.transformer_blocks[0]["audio_attn1"]["to_q"].weight.detach().clone()
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * normal(tuple(parameter.shape), name))
    model.save_pretrained(folder)
    merged = model.merge_and_unload().transformer_blocks[0]["audio_attn1"]["to_q"].weight.detach()
    return folder / "adapter_model.safetensors", weight, merged - weight


TARGET = {"target_modules": ["to_q"]}


@pytest.mark.parametrize(
    ("config", "kind", "is_dora"),
    [
        (peft.LoraConfig(r=4, lora_alpha=3, **TARGET), "LoRA", False),
        (peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, **TARGET), "LoRA", False),
        (peft.LoraConfig(r=4, lora_alpha=3, use_dora=True, **TARGET), "LoRA", True),
        (peft.LoHaConfig(r=4, alpha=3, **TARGET), "LoHa", False),
        (peft.LoKrConfig(r=2, alpha=3, **TARGET), "LoKr", False),
        (peft.LoKrConfig(r=2, alpha=3, decompose_both=True, decompose_factor=8, **TARGET), "LoKr", False),
        (peft.LoKrConfig(r=64, alpha=3, **TARGET), "LoKr", False),  # both sides are whole matrices
        (peft.LoKrConfig(r=3, alpha=3, alpha_pattern={"to_q": 6}, **TARGET), "LoKr", False),
    ],
)
def test_adapters_of_peft_are_read_as_peft_merges_them(config, kind, is_dora, tmp_path):
    path, weight, delta = peft_file(tmp_path, config)
    lora = open_lora(path)
    update = lora.layers[LAYER]
    assert (update.kind, update.is_dora, lora.skipped, lora.warnings) == (kind, is_dora, {}, ())
    assert update.shape == (48, 64)
    torch.testing.assert_close(lora.read(LAYER)(weight), delta, atol=1e-6, rtol=1e-5)


def test_without_the_settings_of_peft_the_scale_is_one_and_said(tmp_path):
    path, weight, delta = peft_file(tmp_path, peft.LoHaConfig(r=4, alpha=2, **TARGET))
    (tmp_path / "adapter_config.json").unlink()
    lora = open_lora(path)
    torch.testing.assert_close(lora.read(LAYER)(weight), 2 * delta)
    assert lora.warnings == (
        "its alpha is unknown, as adapter_config.json is not beside it: it is used with a scale of 1",
    )
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: cannot be read as JSON"):
        open_lora(path)


@pytest.mark.parametrize(("shape", "dim"), [((48, 1), 1), ((48,), 1), ((1, 64), 0)])
def test_a_magnitude_is_of_rows_or_of_columns(shape, dim, opened):
    down, up, weight = normal((4, 64), "A"), normal((48, 4), "B"), normal((48, 64), "W")
    magnitude = normal(shape, "m").abs()
    update = opened({**pair(down, up), f"{KEY}.dora_scale": magnitude, f"{KEY}.alpha": torch.tensor(2.0)}).read(LAYER)
    updated = weight + 0.5 * up @ down
    scale = magnitude.reshape(-1, 1) if dim == 1 else magnitude
    torch.testing.assert_close(update(weight), scale * updated / updated.norm(dim=dim, keepdim=True) - weight)


def test_a_whole_difference_is_read(opened):
    lora = opened({f"{KEY}.diff": normal((48, 64), "d")})
    assert (lora.layers[LAYER].kind, lora.layers[LAYER].rank) == ("full difference", None)
    assert torch.equal(lora.read(LAYER)(torch.zeros(48, 64)), normal((48, 64), "d"))


def test_alpha_of_lycoris_counts_only_beside_factors_of_low_rank(opened):
    """As LyCORIS and ComfyUI have it: with two whole matrices the scale is 1, whatever alpha says."""
    whole = {f"{KEY}.lokr_w1": normal((4, 4), 1), f"{KEY}.lokr_w2": normal((12, 16), 2)}
    assert opened({**whole, f"{KEY}.alpha": torch.tensor(8.0)}).layers[LAYER].scale == 1
    halves = {f"{KEY}.lokr_w1": normal((4, 4), 1), f"{KEY}.lokr_w2_a": normal((12, 2), 2),
              f"{KEY}.lokr_w2_b": normal((2, 16), 3)}  # fmt: skip
    lora = opened({**halves, f"{KEY}.alpha": torch.tensor(8.0)})
    assert (lora.layers[LAYER].scale, lora.layers[LAYER].rank) == (4, 2)
    assert lora.form == "diffusion_model.*.lokr_* with .alpha"
