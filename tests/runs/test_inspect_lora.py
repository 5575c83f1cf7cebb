"""The description of a LoRA: each warning where it applies, and only there."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.core.randomness import normal
from sonolora.ltx.lora.lora_fit import linear_layers
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.base import find_base
from sonolora.runs.lora_files.inspect_lora import inspect_lora

AUDIO = "transformer_blocks.0.audio_attn1.to_q"
FEED_FORWARD = "transformer_blocks.1.audio_ff.net.2"
VIDEO = "transformer_blocks.0.attn1.to_q"
OTHER = "transformer_blocks.40.audio_attn1.to_q"
CONNECTOR = "audio_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"


@pytest.fixture
def inspected(tmp_path):
    base = find_base("tiny")
    weights = load_file(base.checkpoint.path)

    def inspect(layers, metadata=None):
        """A LoRA that changes each of these layers by so many parts of its weights."""
        tensors = {}
        for layer, size in layers.items():
            weight = weights.get(f"{PREFIX}{layer}.weight", torch.ones(8, 8)).float()
            down, up = normal((4, weight.shape[1]), layer, "A"), normal((weight.shape[0], 4), layer, "B")
            tensors[f"diffusion_model.{layer}.lora_A.weight"] = down
            tensors[f"diffusion_model.{layer}.lora_B.weight"] = up * size * weight.norm() / (up @ down).norm()
        save_file(tensors, tmp_path / "lora.safetensors", metadata)
        found = inspect_lora(tmp_path / "lora.safetensors", base)
        body = json.loads(json.dumps(found.as_json(), allow_nan=False))
        assert body["file"] == "lora.safetensors"
        assert body["misfits"] == body["unused"], "the former name stays"
        return found

    return inspect


def test_a_good_lora_has_no_warnings(inspected):
    fingerprint = find_base("tiny").fingerprint
    said = {"mode": "t2a", "trigger_phrase": "f0ley", "base_fingerprint": fingerprint, "sonolora_version": "9"}
    found = inspected({AUDIO: 0.01, FEED_FORWARD: 0.02}, said)
    assert found.warnings == [] and found.unused == {}
    assert (found.made_by, found.training_type, found.trigger_phrase) == ("Sonolora 9", "t2a", "f0ley")
    assert found.trained_on == found.base_fingerprint == fingerprint
    assert (found.ranks, found.dtypes, found.form) == ([4], ["F32"], "diffusion_model.*.lora_A/lora_B")
    shapes = linear_layers(find_base("tiny").checkpoint)
    assert found.parameters == 4 * (sum(shapes[AUDIO]) + sum(shapes[FEED_FORWARD]))
    assert [kind.kind for kind in found.kinds] == ["audio self-attention", "audio feed-forward"]
    assert [change for _, change in found.by_change()] == pytest.approx([0.02, 0.01], rel=1e-3)
    assert found.by_change()[0][0] == FEED_FORWARD and 0.01 < found.total.change < 0.02


@pytest.mark.parametrize(
    ("layers", "metadata", "words"),
    [
        ({AUDIO: 0.0}, {}, "it has no effect"),
        ({AUDIO: 0.0005}, {}, "it has almost no effect: the change is 0.0005 of the weights, below 0.001"),
        ({AUDIO: 0.01, FEED_FORWARD: 0.0}, {}, f"1 of 2 layers change nothing, such as {FEED_FORWARD}"),
        ({AUDIO: float("nan"), FEED_FORWARD: 0.01}, {}, f"1 of 2 layers hold NaN or infinity, such as {AUDIO}"),
        ({AUDIO: 1.5}, {}, "the change is 1.5 times the weights"),
        ({AUDIO: 0.01, "a.b": 1.0}, {}, r"not used: diffusion_model\.a\.b: not a layer of LTX-2\.3"),
        ({AUDIO: 0.01, OTHER: 1.0}, {}, f"not used: {OTHER}: the base has no such layer"),
        (
            {AUDIO: 0.01},
            {"base": "other", "base_fingerprint": "0"},
            r"on another base \(other\); the changes are",
        ),
        (
            {AUDIO: 0.01, VIDEO: 0.01},
            {"mode": "a2a"},
            "for a2a, which has no video, but 1 of its layers",
        ),
        ({AUDIO: 0.01}, {"base_precision": "float8 with scales"}, "trained on a base stored as float8 with scales"),
        ({VIDEO: 0.01}, {"mode": "v2a"}, "it changes no layer that affects the audio directly"),
        ({AUDIO: 0.01, CONNECTOR: 0.01}, {}, "1 of its layers belong to the text conditioning"),
    ],
)
def test_what_is_odd_is_said_and_nothing_else(layers, metadata, words, inspected):
    found = inspected(layers, metadata)
    assert len(found.warnings) == 1
    assert re.search(words, found.warnings[0])


def test_other_adapters_are_measured_too(tmp_path):
    """LoKr and LoHa as LyCORIS writes them: kinds, ranks, and a change that is known."""
    base = find_base("tiny")
    shapes = linear_layers(base.checkpoint)
    lokr, loha = (f"lycoris_{layer.replace('.', '_')}" for layer in (AUDIO, FEED_FORWARD))
    (out, inputs), (up, down) = shapes[AUDIO], shapes[FEED_FORWARD]
    tensors = {
        f"{lokr}.lokr_w1": normal((4, 4), 1),
        f"{lokr}.lokr_w2": 0.01 * normal((out // 4, inputs // 4), 2),
        f"{lokr}.alpha": torch.tensor(1.0),
        f"{loha}.alpha": torch.tensor(1.0),
    }
    for n in (1, 2):
        tensors |= {f"{loha}.hada_w{n}_a": 0.1 * normal((up, 2), n), f"{loha}.hada_w{n}_b": normal((2, down), n, "b")}
    save_file(tensors, tmp_path / "lora.safetensors", {"ss_network_module": "lycoris.kohya"})
    result = inspect_lora(tmp_path / "lora.safetensors", base)
    assert result.unused == {} and result.warnings == []
    assert {(layer.adapter, layer.rank, layer.scale) for layer in result.layers} == {
        ("LoKr", None, 1),
        ("LoHa", 2, 0.5),
    }
    assert result.ranks == [2] and result.parameters == sum(value.numel() for value in tensors.values()) - 2
    weight = load_file(base.checkpoint.path)[f"{PREFIX}{AUDIO}.weight"].double()
    change = torch.kron(tensors[f"{lokr}.lokr_w1"], tensors[f"{lokr}.lokr_w2"]).double()
    assert dict(result.by_change())[AUDIO] == pytest.approx(float(change.norm() / weight.norm()), rel=1e-4)
