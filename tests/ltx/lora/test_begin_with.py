"""Adapters that begin with the values of a LoRA file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, begin_with, lora_tensors, remove_adapters, save_lora
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS


@pytest.fixture
def trained(transformer, tmp_path):
    """The file of a LoRA of rank 4."""
    adapters = add_adapters(transformer, AUDIO_TARGETS, 4, seed=0)
    with torch.no_grad():
        adapters.flat.copy_(normal(tuple(adapters.flat.shape), "values"))
    save_lora(tmp_path / "lora.safetensors", adapters, {"format": "pt"})
    remove_adapters(transformer)
    return tmp_path / "lora.safetensors"


def test_they_hold_what_the_file_holds(transformer, trained):
    adapters = add_adapters(transformer, AUDIO_TARGETS, 4, seed=1)
    begin_with(adapters, open_lora(trained))
    expected = load_file(trained)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in lora_tensors(adapters).items())


def test_a_higher_rank_computes_the_same(transformer, trained):
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=1)
    begin_with(adapters, open_lora(trained))
    found, expected = lora_tensors(adapters), load_file(trained)
    for key in [name.removesuffix("A.weight") for name in found if name.endswith("A.weight")]:
        up, down = (found[f"{key}{letter}.weight"].float() for letter in "BA")
        assert torch.equal(up @ down, expected[f"{key}B.weight"].float() @ expected[f"{key}A.weight"].float())
        assert down[4:].abs().max() > 0, "what is new can learn"


def test_a_lower_rank_and_other_layers_are_refused(transformer, trained):
    with pytest.raises(CheckpointError, match="has rank 4"):
        begin_with(add_adapters(transformer, AUDIO_TARGETS, 2, seed=1), open_lora(trained))
    remove_adapters(transformer)
    with pytest.raises(CheckpointError, match="is not what this run trains"):
        begin_with(add_adapters(transformer, AUDIO_TARGETS[:4], 4, seed=1), open_lora(trained))
