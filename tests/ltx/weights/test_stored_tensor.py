"""Checkpoints in 8-bit floats: read as code times scale, exactly, whoever stored them."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stored_forms import block_linears, scaled_fp8

from sonolora.conditioning import Example
from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.memory.quantised import QuantisedLinear
from sonolora.ltx.memory.weight_policy import PLAIN, WeightPolicy
from sonolora.ltx.model.transformer import PREFIX, Stream, load_transformer
from sonolora.ltx.weights import checkpoint as checkpoint_module
from sonolora.ltx.weights.checkpoint import Checkpoint, read_tensors
from sonolora.ltx.weights.stored_tensor import stored_precision
from sonolora.training.trainer import Trainer, TrainingConfig

CPU, F32 = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def weights(checkpoint):
    return load_file(checkpoint.path)


@pytest.fixture(scope="module")
def linears(weights):
    return block_linears(weights)


@pytest.fixture
def write(checkpoint, tmp_path):
    def write(tensors, name="fp8"):
        with safe_open(checkpoint.path, "pt") as file:
            metadata = file.metadata()
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
        return Checkpoint.open(path)

    return write


@pytest.mark.parametrize("naming", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("rows", [False, True])
def test_a_weight_is_its_codes_times_their_scale(naming, rows, weights, linears, write, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_SCALED_VALUES", 640)
    stored, meant = scaled_fp8(weights, linears, naming, rows=rows)
    found = write(stored)
    assert found.tensors.keys() == weights.keys()
    assert stored_precision(found.tensors) == "float8 with scales"
    for dtype in (torch.float32, torch.bfloat16):
        for name, tensor in read_tensors(found, linears, device=CPU, dtype=dtype):
            assert torch.equal(tensor, meant[name].to(dtype)), "rounded once"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_without_scales_the_codes_are_the_weights(dtype, weights, linears, write):
    cast = write({name: tensor.to(dtype) if name in linears else tensor for name, tensor in weights.items()})
    assert stored_precision(cast.tensors) == "float8 without scales"
    for name, tensor in read_tensors(cast, linears, device=CPU, dtype=F32):
        assert torch.equal(tensor, weights[name].to(dtype).float())


def test_float16_is_read(weights, write):
    half = write(
        {name: tensor.half() if tensor.dtype == torch.bfloat16 else tensor for name, tensor in weights.items()}
    )
    assert stored_precision(half.tensors) == "float16"
    assert load_transformer(half, video=False, device=CPU, dtype=torch.bfloat16)


def model_of(checkpoint, policy=PLAIN, dtype=F32):
    return load_transformer(checkpoint, video=False, device=CPU, dtype=dtype, policy=policy)


def trained(model, steps=2):
    """LoRA and losses of a short training on noise, and an output before it."""
    config = model.config.audio
    example = Example(normal((1, 9, config.channels), "x"), normal((1, 8, config.context_dim), "c"))
    stream = Stream(example.latents_BTC, torch.arange(9.0)[None, None], torch.tensor([0.5]), example.context_BSD)
    output = model(stream)[0]
    adapters = add_adapters(model, AUDIO_TARGETS, 4, 0)
    trainer = Trainer(model, adapters, [example], TrainingConfig(steps, 1e-2, 0))
    losses = [trainer.step() for _ in range(steps)]
    return [output, *losses, *(one for _, one in sorted(adapters.matrices(adapters.flat.detach()).items()))]


def test_training_on_it_is_training_on_the_weights_that_are_meant(weights, linears, write):
    stored, meant = scaled_fp8(weights, linears, rows=True)
    ours, expected = trained(model_of(write(stored))), trained(model_of(write(meant, "meant")))
    assert all(map(torch.equal, ours, expected))


def test_the_codes_are_kept_where_weights_are_held_in_8_bits(weights, linears, write):
    """No second rounding, and each layer holds what the file holds."""
    stored, meant = scaled_fp8(weights, linears)
    found = write(stored)
    held = model_of(found, WeightPolicy("fp8"))
    layers = {name: layer for name, layer in held.named_modules() if isinstance(layer, QuantisedLinear)}
    assert len(layers) == 30
    for name, layer in layers.items():
        assert torch.equal(layer.codes.float(), stored[f"{PREFIX}{name}.weight"].float())
        torch.testing.assert_close(layer.weight, meant[f"{PREFIX}{name}.weight"], rtol=1e-7, atol=0)
    expected = trained(model_of(write(meant, "meant")))
    for ours, theirs in zip(trained(held), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert trained(model_of(found, WeightPolicy("fp8"), torch.bfloat16))
    assert trained(model_of(found, WeightPolicy("nf4", offloaded=True)))


def test_fingerprints_tell_scales_apart(weights, linears, write):
    stored, _ = scaled_fp8(weights, linears)
    first = write(stored)
    assert first.fingerprint() == Checkpoint.open(first.path).fingerprint()
    for name in stored:
        if name.endswith("weight_scale"):
            stored[name] = stored[name] * 2
    assert write(stored, "twice").fingerprint() != first.fingerprint()


def test_scales_of_other_forms_are_not_taken_for_scales(weights, linears, write):
    """As a block-wise format has them; the loader then names the tensor that it does not expect."""
    stored, _ = scaled_fp8(weights, linears)
    name = f"{linears[0].removesuffix('.weight')}.weight_scale"
    found = write({**stored, name: torch.ones(2, 2)})  # 4 numbers, as many as the weight has rows
    assert name in found.tensors
    with pytest.raises(CheckpointError, match=r"unexpected: .*weight_scale"):
        load_transformer(found, video=True, device=CPU, dtype=F32)
