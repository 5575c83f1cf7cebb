"""How much a LoRA changes, held to the whole products."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.core.randomness import normal
from sonolora.ltx.lora.lora_file import linear_layers, open_lora
from sonolora.ltx.lora.lora_strength import AUDIO_KINDS, KINDS, VIDEO_KINDS, kind, strengths, together
from sonolora.ltx.model.transformer import PREFIX, is_transformer_tensor

LAYERS = (
    "transformer_blocks.0.audio_attn1.to_q",
    "transformer_blocks.2.audio_ff.net.0.proj",
    "transformer_blocks.1.video_to_audio_attn.to_out.0",
)


@pytest.fixture
def lora(checkpoint, tmp_path):
    shapes = linear_layers(checkpoint)
    tensors = {}
    for layer in LAYERS:
        tensors[f"{layer}.lora_down.weight"] = normal((5, shapes[layer][1]), layer, "A")
        tensors[f"{layer}.lora_up.weight"] = normal((shapes[layer][0], 5), layer, "B")
        tensors[f"{layer}.alpha"] = torch.tensor(-2.0)
    tensors["x.lora_down.weight"], tensors["x.lora_up.weight"] = torch.ones(1, 2), torch.ones(2, 1)
    save_file(tensors, tmp_path / "lora.safetensors")
    return open_lora(tmp_path / "lora.safetensors")


def test_strengths_are_those_of_the_whole_products(lora, checkpoint):
    weights = load_file(checkpoint.path)
    measured = strengths(lora, checkpoint)
    changes, bases = [], []
    for layer in LAYERS:
        down, up = lora.read(layer)
        changes.append(-2 / 5 * up.double() @ down.double())
        bases.append(weights[f"{PREFIX}{layer}.weight"].double())
        assert measured[layer].change == pytest.approx(float(changes[-1].norm()), rel=1e-6)
        assert measured[layer].weight == pytest.approx(float(bases[-1].norm()), rel=1e-6)
        assert measured[layer].relative == pytest.approx(float(changes[-1].norm() / bases[-1].norm()), rel=1e-6)
    assert (measured["x"].weight, measured["x"].relative) == (None, None)
    assert measured["x"].change == pytest.approx(2.0)
    whole = together(measured.values())
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
    assert math.isnan(together(measured.values()).change)
    assert together([]).relative is None


def test_every_layer_has_a_kind_and_the_audio_ones_are_those_of_sound_alone(checkpoint):
    kinds = {layer: kind(layer) for layer in linear_layers(checkpoint)}
    assert set(kinds.values()) == set(KINDS) - {"other"}
    for layer, found in kinds.items():
        assert (found in AUDIO_KINDS) == is_transformer_tensor(f"{PREFIX}{layer}.weight", video=False), layer
        assert (found in VIDEO_KINDS) == ("embeddings_connector" not in layer and found not in AUDIO_KINDS)
    assert kind("lora_te_1") == "other"
