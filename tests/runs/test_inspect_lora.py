"""What is said about a LoRA: each warning where it belongs, and only there."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.core.randomness import normal
from sonolora.ltx.lora.lora_file import linear_layers
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.weights.base import find_base
from sonolora.runs.inspect_lora import inspect_lora

AUDIO = "transformer_blocks.0.audio_attn1.to_q"
FEED_FORWARD = "transformer_blocks.1.audio_ff.net.2"
VIDEO = "transformer_blocks.0.attn1.to_q"
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
        assert json.loads(json.dumps(asdict(found), allow_nan=False))["file"] == "lora.safetensors"
        return found

    return inspect


def test_a_good_lora_has_no_warnings(inspected):
    fingerprint = find_base("tiny").fingerprint
    said = {"mode": "t2a", "trigger_phrase": "f0ley", "base_fingerprint": fingerprint, "sonolora_version": "9"}
    found = inspected({AUDIO: 0.01, FEED_FORWARD: 0.02}, said)
    assert found.warnings == [] and found.misfits == {}
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
        ({AUDIO: 0.0}, {}, "it does nothing"),
        ({AUDIO: 0.0005}, {}, "it does next to nothing: it changes the weights by 0.0005 of their size, below 0.001"),
        ({AUDIO: 0.01, FEED_FORWARD: 0.0}, {}, f"1 of 2 layers change nothing, such as {FEED_FORWARD}"),
        ({AUDIO: float("nan"), FEED_FORWARD: 0.01}, {}, f"1 of 2 layers hold NaN or infinity, such as {AUDIO}"),
        ({AUDIO: 1.5}, {}, "by 1.5 times their own size"),
        ({AUDIO: 0.01, "a.b": 1.0}, {}, "1 of 2 layers do not fit the base tiny, such as a.b: the base has no"),
        ({AUDIO: 0.01}, {"base": "other", "base_fingerprint": "0"}, r"trained on another base \(other\) than tiny"),
        ({AUDIO: 0.01, VIDEO: 0.01}, {"mode": "a2a"}, "trained for a2a, sound alone, but 1 of its layers are only"),
        ({VIDEO: 0.01}, {"mode": "v2a"}, "it changes nothing that the sound passes through"),
        ({AUDIO: 0.01, CONNECTOR: 0.01}, {}, "1 of its layers are of the text connector"),
    ],
)
def test_what_is_odd_is_said_and_nothing_else(layers, metadata, words, inspected):
    found = inspected(layers, metadata)
    assert len(found.warnings) == 1
    assert re.search(words, found.warnings[0])
