"""How much a LoRA changes, held to the whole products."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.core.randomness import normal
from sonolora.ltx.lora.layer_kinds import AUDIO_KINDS, KINDS, TEXT, VIDEO_KINDS, layer_kind
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_fit import linear_layers
from sonolora.ltx.lora.lora_names import weight_name
from sonolora.ltx.lora.lora_strength import combine, strengths
from sonolora.ltx.model.transformer import PREFIX, is_transformer_tensor

LAYERS = (
    "transformer_blocks.0.audio_attn1.to_q",
    "transformer_blocks.2.audio_ff.net.0.proj",
    "transformer_blocks.1.video_to_audio_attn.to_out.0",
)
ABSENT = "transformer_blocks.9.audio_attn1.to_q"


@pytest.fixture
def lora(checkpoint, tmp_path):
    shapes = linear_layers(checkpoint)
    tensors = {}
    for layer in LAYERS:
        tensors[f"{layer}.lora_down.weight"] = normal((5, shapes[layer][1]), layer, "A")
        tensors[f"{layer}.lora_up.weight"] = normal((shapes[layer][0], 5), layer, "B")
        tensors[f"{layer}.alpha"] = torch.tensor(-2.0)
    tensors[f"{ABSENT}.lora_down.weight"], tensors[f"{ABSENT}.lora_up.weight"] = torch.ones(1, 2), torch.ones(2, 1)
    save_file(tensors, tmp_path / "lora.safetensors")
    return open_lora(tmp_path / "lora.safetensors")


def test_strengths_are_those_of_the_whole_products(lora, checkpoint):
    weights = load_file(checkpoint.path)
    measured = strengths(lora, checkpoint)
    changes, bases = [], []
    for layer in LAYERS:
        down, up = lora.read_pair(layer)
        changes.append(-2 / 5 * up.double() @ down.double())
        bases.append(weights[f"{PREFIX}{layer}.weight"].double())
        assert measured[layer].change == pytest.approx(float(changes[-1].norm()), rel=1e-6)
        assert measured[layer].weight == pytest.approx(float(bases[-1].norm()), rel=1e-6)
        assert measured[layer].relative == pytest.approx(float(changes[-1].norm() / bases[-1].norm()), rel=1e-6)
    assert measured.keys() == set(LAYERS), "and nothing of what does not fit"
    whole = combine(measured.values())
    assert whole.change == pytest.approx(float(torch.cat([change.flatten() for change in changes]).norm()), rel=1e-6)
    assert whole.weight == pytest.approx(float(torch.cat([base.flatten() for base in bases]).norm()), rel=1e-6)


def test_nothing_is_zero_and_nan_is_nan(lora, checkpoint, tmp_path):
    tensors = load_file(lora.path)
    tensors[f"{LAYERS[0]}.lora_up.weight"].zero_()
    tensors[f"{LAYERS[1]}.lora_down.weight"][0, 0] = torch.inf
    save_file(tensors, tmp_path / "odd.safetensors")
    measured = strengths(open_lora(tmp_path / "odd.safetensors"), checkpoint)
    assert measured[LAYERS[0]].change == 0
    assert math.isnan(measured[LAYERS[1]].change)
    assert math.isnan(combine(measured.values()).change)
    assert combine([]).relative is None


def test_every_layer_has_a_kind(checkpoint):
    """The audio kinds are the layers of the network without video, the video kinds all others but the text layers."""
    kinds = {layer: layer_kind(layer) for layer in linear_layers(checkpoint)}
    assert set(kinds.values()) == set(KINDS) - {"other"}
    for layer, kind in kinds.items():
        assert (kind in AUDIO_KINDS) == is_transformer_tensor(f"{PREFIX}{layer}.weight", video=False), layer
        is_text = "embeddings_connector" in layer or layer.startswith("text_embedding_projection")
        assert (kind == TEXT) == is_text
        assert (kind in VIDEO_KINDS) == (not is_text and kind not in AUDIO_KINDS)
    assert layer_kind("lora_te_1") == "other"


def test_updates_of_other_kinds_are_measured_by_their_whole_change(checkpoint, tmp_path):
    out, inputs = linear_layers(checkpoint)[LAYERS[0]]
    tensors = {f"{LAYERS[0]}.hada_w{n}_{half}": normal((out, 2) if half == "a" else (2, inputs), n, half)
               for n in (1, 2) for half in "ab"}  # fmt: skip
    magnitude = normal((out, 1), "m").abs()
    save_file({**tensors, f"{LAYERS[0]}.dora_scale": magnitude}, tmp_path / "doha.safetensors")
    (strength,) = strengths(open_lora(tmp_path / "doha.safetensors"), checkpoint).values()
    weight = load_file(checkpoint.path)[weight_name(LAYERS[0])].double()
    first, second = (tensors[f"{LAYERS[0]}.hada_w{n}_a"] @ tensors[f"{LAYERS[0]}.hada_w{n}_b"] for n in (1, 2))
    updated = weight + first.double() * second.double()
    change = magnitude.double() * updated / updated.norm(dim=1, keepdim=True) - weight
    assert strength.change == pytest.approx(float(change.norm()), rel=1e-5)
    assert strength.weight == pytest.approx(float(weight.norm()), rel=1e-6)
