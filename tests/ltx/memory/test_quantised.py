"""Quantised layers against torch's own autograd on the weight that they stand for, and nf4 against bitsandbytes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, remove_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.memory.quantised import QuantisedLinear, dequantise, quantise
from sonolora.ltx.memory.weight_forms import WEIGHTS
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.ltx.model.transformer import load_transformer
from sonolora.planning.allocations import Allocations

CPU = torch.device("cpu")
FORMS = WEIGHTS[1:]
BYTES = {"int8": 1, "fp8": 1, "nf4": 0.5 + 4 / 64}
# Of a normally distributed weight: int8 takes even steps of m / 127 with m near 3.5 deviations; fp8 has 3 bits of
# mantissa; nf4's is the figure of its paper, 9 to 10 %.
ERRORS = {"int8": (0.006, 0.010), "fp8": (0.02, 0.03), "nf4": (0.085, 0.1)}
# bitsandbytes 0.50.2: quantize_4bit(normal((2, 128), "weight") * 0.02, quant_type="nf4", blocksize=64)
NF4_CODES = (
    "6d5d8c3a8930428bee4948864298d727ec1c85c5a48b5737a7ada44a85b1382197eb53d9533aab71175e84349e5523924914fa729a445ac3"
    "35b9981379808db4ccc26de24333aaba9a48aeb6d91975a9d69eae166d2dd9e5c4452d564c89f568b53724766bd8db4a73603d5b4ac748b6"
    "74246f8747968ac9d968d3722d35da42"
)
NF4_SCALES = [0.05919462442398071, 0.04525526985526085, 0.043499644845724106, 0.0606597401201725]


def quantised(linear, weight, form):
    return QuantisedLinear(linear, *quantise(weight, form), dtype=weight.dtype, device=weight.device)


def test_nf4_is_that_of_bitsandbytes():
    codes, scales = quantise(normal((2, 128), "weight") * 0.02, "nf4")
    assert bytes(codes.flatten().tolist()).hex() == NF4_CODES
    assert scales.flatten().tolist() == NF4_SCALES


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_takes_nothing_from_the_host(form):
    """Else the host would wait for the device in every layer, and no step could be captured."""

    class HostTensors(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.lift_fresh.default
            return func(*args, **(kwargs or {}))

    held = quantise(normal((2, 128), "weight"), form)
    dequantise(*held, torch.bfloat16)
    with HostTensors() as later:
        dequantise(*held, torch.bfloat16)
    assert later.count == 0


@pytest.mark.parametrize("form", FORMS)
def test_the_error_is_as_large_as_the_form_says(form):
    weight = normal((256, 1024), "weight") * 0.02
    codes, scales = quantise(weight, form)
    error = ((dequantise(codes, scales, torch.float32) - weight).norm() / weight.norm()).item()
    least, most = ERRORS[form]
    assert least < error < most
    assert codes.nbytes + scales.nbytes == pytest.approx(BYTES[form] * weight.numel(), rel=0.01)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_form_can_say_comes_back(form, dtype):
    """Also a row of zeros, and largest magnitudes of either sign."""
    weight = dequantise(*quantise(normal((4, 128), "weight"), form), torch.float32)
    weight[1] = 0
    again = dequantise(*quantise(weight, form), dtype)
    assert torch.allclose(again.float(), weight, rtol=2e-6 if dtype == torch.float32 else 2**-7, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_the_weight(form, dtype):
    linear = nn.Linear(128, 64).to(dtype).requires_grad_(False)
    layer = quantised(linear, linear.weight, form)
    x, gradient = normal((2, 5, 128), "x").to(dtype), normal((2, 5, 64), "gradient").to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = layer(ours), F.linear(theirs, layer.weight, linear.bias)
    out.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(out, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("form", FORMS)
def test_no_weight_of_full_size_is_kept(form):
    linear = nn.Linear(1024, 1024).requires_grad_(False)
    layer, x = quantised(linear, linear.weight, form), normal((1, 2, 1024), "x").requires_grad_()
    with Allocations("cpu") as live:
        out = layer(x)
        assert live.now == out.nbytes
        assert live.peak > linear.weight.nbytes


def test_a_layer_is_a_linear_layer_on_meta_too():
    with torch.device("meta"):
        linear = nn.Linear(128, 64)
    for form in FORMS:
        layer = quantised(linear, linear.weight, form)
        real = quantise(normal((64, 128), "weight"), form)
        assert [(t.shape, t.dtype) for t in (layer.codes, layer.scales)] == [(t.shape, t.dtype) for t in real]
        assert isinstance(layer, nn.Linear)
        assert layer(torch.empty(3, 128, device="meta")).shape == (3, 64)


def load(checkpoint, form="full"):
    return load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32, policy=WeightPolicy(weights=form))


@pytest.mark.parametrize("form", FORMS)
def test_a_transformer_has_its_large_layers_quantised_and_nothing_else(checkpoint, form):
    plain, held = dict(load(checkpoint).named_modules()), dict(load(checkpoint, form).named_modules())
    quantised = {name for name, module in held.items() if isinstance(module, QuantisedLinear)}
    assert {name.rpartition(".")[2] for name in quantised} == {"to_q", "to_k", "to_v", "0", "proj", "2"}
    assert all(name.startswith("transformer_blocks.") for name in quantised)
    for name, module in plain.items():
        for leaf, tensor in module.named_parameters(recurse=False):
            assert torch.equal(getattr(held[name], leaf), tensor) == (name not in quantised or leaf == "bias")
    assert not any(parameter.requires_grad for parameter in held[""].parameters())


def test_adapters_go_on_and_off(checkpoint):
    """On all layers that they go on in a plain model, and the layers are the same ones afterwards."""
    plain, held = load(checkpoint), load(checkpoint, "nf4")
    before = {name: module for name, module in held.named_modules() if isinstance(module, nn.Linear)}
    names = [list(add_adapters(model, AUDIO_TARGETS, 4, 0)) for model in (plain, held)]
    assert names[0] == names[1] != []
    remove_adapters(held)
    assert {name: module for name, module in held.named_modules() if isinstance(module, nn.Linear)} == before
