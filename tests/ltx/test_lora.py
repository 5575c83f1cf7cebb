"""The LoRA layer and file, held to PEFT and diffusers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.errors import CheckpointError
from sonolora.ltx.checkpoint import Checkpoint
from sonolora.ltx.lora import (
    LoRALinear,
    add_adapters,
    apply_lora,
    as_saved,
    load_lora,
    save_lora,
)
from sonolora.ltx.targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.ltx.transformer import Stream, load_transformer
from sonolora.randomness import normal

CPU = torch.device("cpu")


def make_stream(cases):
    positions = cases["audio_positions_seconds"].mean(-1)
    return Stream(cases["audio_latents"], positions, cases["audio_only.audio_sigma"], cases["audio_context"])


def randomize(adapters):
    """As after training: A and B both carry something."""
    for name, adapter in adapters.items():
        adapter.lora_B.data = 0.05 * normal(tuple(adapter.lora_B.shape), "B", name)


def test_published_targets_are_all_found(transformer, checkpoint):
    assert len(add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)) == 10 * 3
    both = load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)
    adapters = add_adapters(both, (*AUDIO_TARGETS, *VIDEO_TO_AUDIO_TARGETS), 8, seed=0)
    assert len(adapters) == 14 * 3
    assert not any(".attn1." in name or ".ff." in name for name in adapters), "the video stream is not touched"


def test_fresh_adapters_change_nothing(transformer, cases):
    before, _ = transformer(make_stream(cases))
    add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    after, _ = transformer(make_stream(cases))
    assert torch.equal(before, after)


def test_initial_values_follow_from_seed_and_name_alone(checkpoint):
    def make(targets, seed):
        model = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
        return add_adapters(model, targets, 8, seed)

    name = "transformer_blocks.1.audio_attn1.to_q"
    first = make(AUDIO_TARGETS, 1)[name].lora_A
    assert torch.equal(first, make(("audio_attn1.to_q",), 1)[name].lora_A)
    assert not torch.equal(first, make(AUDIO_TARGETS, 2)[name].lora_A)
    assert first.abs().max() <= 1 / 8, "uniform within 1 / sqrt(64)"


def test_file_has_the_published_keys_and_no_alpha(transformer, tmp_path):
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    save_lora(tmp_path / "lora.safetensors", adapters, {"mode": "t2a", "rank": "8"})
    tensors = load_file(tmp_path / "lora.safetensors")
    assert len(tensors) == 2 * 30
    down = tensors["diffusion_model.transformer_blocks.0.audio_ff.net.0.proj.lora_A.weight"]
    up = tensors["diffusion_model.transformer_blocks.0.audio_ff.net.0.proj.lora_B.weight"]
    assert (down.shape, up.shape) == ((8, 64), (256, 8))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert Checkpoint.open(tmp_path / "lora.safetensors").metadata["mode"] == "t2a"


def test_file_sounds_as_training_heard_it(transformer, checkpoint, cases, tmp_path):
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    randomize(adapters)
    exact = adapters["transformer_blocks.0.audio_attn1.to_q"].lora_A.clone()
    with as_saved(adapters):
        heard, _ = transformer(make_stream(cases))
    assert torch.equal(exact, adapters["transformer_blocks.0.audio_attn1.to_q"].lora_A), "restored afterwards"
    save_lora(tmp_path / "lora.safetensors", adapters, {})
    other = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
    apply_lora(other, load_lora(tmp_path / "lora.safetensors"), 1.0)
    loaded, _ = other(make_stream(cases))
    assert torch.equal(heard, loaded)


def test_scale_goes_through_the_base(transformer, cases, checkpoint, tmp_path):
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    base, _ = transformer(make_stream(cases))
    randomize(adapters)
    save_lora(tmp_path / "lora.safetensors", adapters, {})
    outputs = []
    for scale in (0.0, 1.0):
        model = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
        apply_lora(model, load_lora(tmp_path / "lora.safetensors"), scale)
        outputs.append(model(make_stream(cases))[0])
    assert torch.equal(outputs[0], base)
    assert (outputs[1] - base).abs().max() > 1e-2


def test_layer_equals_peft():
    peft = pytest.importorskip("peft")
    linear = torch.nn.Linear(12, 20)
    ours = LoRALinear(linear, 4)
    ours.lora_A.data = normal((4, 12), "A")
    ours.lora_B.data = normal((20, 4), "B")
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(12, 20)})
    model["layer"].load_state_dict(linear.state_dict())
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["layer"])
    model = peft.inject_adapter_in_model(config, model)
    peft.set_peft_model_state_dict(
        model, {"layer.lora_A.weight": ours.lora_A.data, "layer.lora_B.weight": ours.lora_B.data}
    )
    x = normal((3, 12), "x")
    torch.testing.assert_close(ours(x), model["layer"](x), atol=1e-6, rtol=1e-6)


def test_bad_files_are_refused_by_name(transformer, tmp_path):
    path = tmp_path / "lora.safetensors"
    key = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    down, up = torch.zeros(8, 64), torch.zeros(64, 8)

    def refused(tensors, words):
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=words):
            apply_lora(transformer, load_lora(path), 1.0)

    refused({f"{key}.lora_A.weight": down}, "not half of a LoRA pair")
    refused({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": torch.zeros(64, 4)}, "not half of a LoRA pair")
    refused({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up, "what": torch.zeros(1)}, "unknown key what")
    refused({"other.weight": up}, "unknown key other.weight")
    video = "diffusion_model.transformer_blocks.0.attn1.to_q"
    refused({f"{video}.lora_A.weight": down, f"{video}.lora_B.weight": up}, "made for another base")
    refused({f"{key}.lora_A.weight": torch.zeros(8, 32), f"{key}.lora_B.weight": up}, "the base wants")
