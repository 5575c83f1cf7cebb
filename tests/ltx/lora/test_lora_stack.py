"""Several LoRAs on one model: the sum of their updates of the original weights, whatever their kinds."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, remove_adapters
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_stack import LoRAUse, apply_loras, with_loras
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.ltx.model.transformer import Stream, load_transformer

CPU, F32 = torch.device("cpu"), torch.float32
BOTH, ONE = (f"transformer_blocks.0.audio_attn1.{leaf}" for leaf in ("to_q", "to_v"))


@pytest.fixture
def files(tmp_path):
    """Two LoRAs of unlike ranks, the second with an alpha; a LoKr; a DoRA. All change `BOTH`."""
    key = f"diffusion_model.{BOTH}"

    def write(name, tensors):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        return open_lora(tmp_path / f"{name}.safetensors")

    def pair(seed, rank, key=key):
        return {
            f"{key}.lora_A.weight": 0.2 * normal((rank, 64), seed, key, "A"),
            f"{key}.lora_B.weight": 0.2 * normal((64, rank), seed, key, "B"),
        }

    return {
        "first": write("first", {**pair(1, 4), **pair(1, 4, f"diffusion_model.{ONE}")}),
        "second": write("second", {**pair(2, 3), f"{key}.alpha": torch.tensor(1.5)}),
        "lokr": write("lokr", {f"{key}.lokr_w1": 0.2 * normal((4, 4), "w1"), f"{key}.lokr_w2": normal((16, 16), "w2")}),
        "dora": write("dora", {**pair(3, 4), f"{key}.dora_scale": 1 + normal((64, 1), "m").abs()}),
    }


def load(checkpoint, policy=None):
    return load_transformer(
        checkpoint, video=False, device=CPU, dtype=F32, **({} if policy is None else {"policy": policy})
    )


def run(model, cases):
    positions = cases["audio_positions_seconds"].mean(-1)
    stream = Stream(cases["audio_latents"], positions, cases["audio_only.audio_sigma"], cases["audio_context"])
    with torch.no_grad():
        return model(stream)[0]


def expected(checkpoint, cases, *uses):
    """With the sum of all updates of the original weights in their place."""
    model, original = load(checkpoint), load(checkpoint)
    with torch.no_grad():
        for lora, strength in uses:
            for layer in lora.layers:
                weight = original.get_parameter(f"{layer}.weight")
                model.get_parameter(f"{layer}.weight").add_(strength * lora.read(layer)(weight))
    return run(model, cases)


@pytest.mark.parametrize(
    "chosen",
    [
        (("first", 0.8), ("second", -0.5)),
        (("first", 0.8), ("dora", 0.6), ("second", 1.0)),
        (("lokr", 0.3), ("dora", 0.7)),
        (("first", 0.5), ("first", 0.5)),
    ],
)
def test_updates_add_up(chosen, files, checkpoint, cases):
    uses = [LoRAUse(files[name], strength) for name, strength in chosen]
    model = load(checkpoint)
    before = run(model, cases)
    assert apply_loras(model, uses) == [{}] * len(uses)
    found = run(model, cases)
    torch.testing.assert_close(found, expected(checkpoint, cases, *uses), rtol=1e-4, atol=1e-5)
    assert (found - before).norm() > 0.01 * before.norm()
    remove_adapters(model)
    assert torch.equal(run(model, cases), before)


def test_beside_the_adapters_in_training(files, checkpoint, cases):
    """As previews use them: afterwards the model and its adapters are as they were, and trained on."""
    model = load(checkpoint)
    adapters = add_adapters(model, AUDIO_TARGETS, 4, 0)
    values = adapters.matrices(adapters.flat.detach())
    for name in adapters:
        values[f"{name}.lora_B"].copy_(0.1 * normal(tuple(values[f"{name}.lora_B"].shape), "B", name))
    own = {name: (values[f"{name}.lora_A"], values[f"{name}.lora_B"]) for name in adapters}
    before = run(model, cases)
    for names in (["second"], ["first", "dora"]):
        uses = [LoRAUse(files[name], 0.8) for name in names]
        with with_loras(model, adapters, uses):
            inside = run(model, cases)
        reference = load(checkpoint)
        original = load(checkpoint)
        with torch.no_grad():
            for name, (down, up) in own.items():
                reference.get_parameter(f"{name}.weight").add_(up @ down)
            for lora, strength in uses:
                for layer in lora.layers:
                    weight = original.get_parameter(f"{layer}.weight")
                    reference.get_parameter(f"{layer}.weight").add_(strength * lora.read(layer)(weight))
        torch.testing.assert_close(inside, run(reference, cases), rtol=1e-4, atol=1e-5)
        assert (inside - before).norm() > 1e-3 * before.norm()
        assert torch.equal(run(model, cases), before)
    assert all(model.get_submodule(name) is adapter for name, adapter in adapters.items())
    assert adapters.flat.requires_grad and model.adapter_values is adapters.flat
    with pytest.raises(RuntimeError, match="stopped"), with_loras(model, adapters, uses):
        raise RuntimeError("stopped")
    assert torch.equal(run(model, cases), before)


def test_on_a_quantised_and_offloaded_base(files, checkpoint, cases):
    uses = [LoRAUse(files["first"], 0.8), LoRAUse(files["second"], 1.0)]
    outputs = []
    for policy in (WeightPolicy("int8"), WeightPolicy("int8", offloaded=True)):
        model = load(checkpoint, policy)
        apply_loras(model, uses)
        outputs.append(run(model, cases))
    assert torch.equal(*outputs)
