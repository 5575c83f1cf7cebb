"""Layouts of base files at the published width, with one layer: the audio stream gives equal outputs."""

from __future__ import annotations

import json

import pytest
import torch
from gguf_forms import meant as meant_by
from gguf_forms import random_blocks, write_gguf
from safetensors.torch import save_file
from stored_forms import block_linears, scaled_fp8

from sonolora.core.randomness import normal
from sonolora.ltx.memory.weight_policy import PLAIN, WeightPolicy
from sonolora.ltx.model.transformer import Stream, audio_token_midpoints, load_transformer
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_VERSION
from sonolora.ltx.weights.parts import TRANSFORMER, open_parts
from sonolora.ltx.weights.tensor_table import needed, published_tensors

CPU, BF16 = torch.device("cpu"), torch.bfloat16
CONFIG = {**LTX23_CONFIG, "transformer": {**LTX23_CONFIG["transformer"], "num_layers": 1}}
HEADER = {"config": json.dumps(CONFIG), "model_version": LTX23_VERSION}


@pytest.fixture(scope="module")
def weights():
    """Of the audio stream's transformer, by published name."""
    table = published_tensors(CONFIG)
    names = sorted(name for name in needed(table, video=False) if name.startswith(TRANSFORMER))
    made = {}
    for name in names:
        tensor = normal(table[name].shape, 0, name)
        tensor = tensor / table[name].shape[-1] ** 0.5 if tensor.dim() > 1 else 0.1 * tensor
        made[name] = tensor.to(torch.float32 if table[name].dtype == "F32" else BF16)
    return made


def output(checkpoint, policy=PLAIN):
    model = load_transformer(checkpoint, video=False, device=CPU, dtype=BF16, policy=policy)
    stream = Stream(
        normal((1, 26, 128), "x"),
        audio_token_midpoints(26)[None, None],
        torch.tensor([0.7]),
        normal((1, 64, 2048), "context"),
    )
    with torch.no_grad():
        return model(stream)[0].float()


@pytest.mark.slow
def test_every_layout_gives_the_output_of_the_published_one(weights, tmp_path):
    linears = block_linears(weights)
    stored, meant = scaled_fp8(weights, linears)
    meant = {name: tensor.to(BF16) if name in linears else tensor for name, tensor in meant.items()}

    def opened(name, tensors, prefix=TRANSFORMER, metadata=HEADER):
        path = tmp_path / f"{name}.safetensors"
        renamed = {prefix + key.removeprefix(TRANSFORMER): tensor for key, tensor in tensors.items()}
        save_file({key: tensor.contiguous() for key, tensor in renamed.items()}, path, metadata)
        return open_parts([path])

    published, dequantised = output(opened("published", weights)), output(opened("meant", meant))
    assert published.std() > 0.1
    for prefix in ("", "diffusion_model."):
        assert torch.equal(output(opened("split", weights, prefix)), published)
    assert torch.equal(output(opened("no-config", weights, "", {"format": "pt"})), published)
    assert torch.equal(output(opened("fp8", stored, "")), dequantised), "code * scale, rounded once"
    held = output(opened("fp8", stored, ""), WeightPolicy("fp8"))
    assert (held - dequantised).norm() < 0.01 * dequantised.norm(), "the product is rounded at its use"
    lost = (dequantised - published).norm() / published.norm()
    assert 0.001 < lost < 0.1, f"float8 costs {lost:.3f} of the output"


@pytest.mark.slow
def test_k_quants_give_the_output_of_the_weights_that_they_stand_for(weights, tmp_path):
    """As in a Q4_K_M file: blocks of 4 and of 6 bits, vectors and tables in float32, no config."""
    kinds = {name: "Q6_K" if "to_v" in name else "Q4_K" for name in block_linears(weights)}
    stored, values = {}, {}
    for seed, (name, tensor) in enumerate(weights.items()):
        bare = name.removeprefix(TRANSFORMER)
        stored[bare], values[name] = tensor.float(), tensor
        if name in kinds:
            scale = 0.03 / 32 / tensor.shape[1] ** 0.5
            stored[bare] = random_blocks(kinds[name], *tensor.shape, seed, scale)
            values[name] = meant_by(stored[bare], kinds[name], tuple(tensor.shape)).to(BF16)
    path = write_gguf(tmp_path / "x.gguf", stored, lambda name, _: kinds.get(TRANSFORMER + name, "F32"))
    save_file(values, tmp_path / "meant.safetensors", HEADER)
    expected = output(open_parts([tmp_path / "meant.safetensors"]))
    assert expected.isfinite().all() and expected.std() > 0.1
    assert torch.equal(output(open_parts([path])), expected)
