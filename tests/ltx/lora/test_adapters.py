"""The LoRA layer and file, held to PEFT and diffusers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, remove_adapters, rounded_to_bf16, save_lora
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_stack import apply_lora
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.ltx.memory.quantised import QuantisedLinear, quantise
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.ltx.model.joint_linear import JointLinear
from sonolora.ltx.model.lora_layer import LoRALinear, UpdatedLinear
from sonolora.ltx.model.low_rank import LowRank
from sonolora.ltx.model.transformer import Stream, load_transformer
from sonolora.ltx.weights.checkpoint import Checkpoint

CPU = torch.device("cpu")


def make_stream(cases):
    positions = cases["audio_positions_seconds"].mean(-1)
    return Stream(cases["audio_latents"], positions, cases["audio_only.audio_sigma"], cases["audio_context"])


def randomize(adapters):
    """As after training: A and B both carry something."""
    for name, matrix in matrices_of(adapters).items():
        if name.endswith("lora_B"):
            matrix.copy_(0.05 * normal(tuple(matrix.shape), "B", name))


def matrices_of(adapters):
    return adapters.matrices(adapters.flat.data)


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
        return matrices_of(add_adapters(model, targets, 8, seed))[f"{name}.lora_A"]

    name = "transformer_blocks.1.audio_attn1.to_q"
    first = make(AUDIO_TARGETS, 1)
    assert torch.equal(first, make(("audio_attn1.to_q",), 1))
    assert not torch.equal(first, make(AUDIO_TARGETS, 2))
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
    exact = adapters.flat.detach().clone()
    with rounded_to_bf16(adapters):
        heard, _ = transformer(make_stream(cases))
    assert torch.equal(exact, adapters.flat), "restored afterwards"
    save_lora(tmp_path / "lora.safetensors", adapters, {})
    other = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
    apply_lora(other, open_lora(tmp_path / "lora.safetensors"), 1.0)
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
        apply_lora(model, open_lora(tmp_path / "lora.safetensors"), scale)
        outputs.append(model(make_stream(cases))[0])
    assert torch.equal(outputs[0], base)
    assert (outputs[1] - base).abs().max() > 1e-2


def test_layer_equals_peft():
    peft = pytest.importorskip("peft")
    linear = torch.nn.Linear(12, 20)
    ours, down, up = LoRALinear(linear, 4), normal((4, 12), "A"), normal((20, 4), "B")
    ours.factors = down.flatten(), up.flatten()
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(12, 20)})
    model["layer"].load_state_dict(linear.state_dict())
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["layer"])
    model = peft.inject_adapter_in_model(config, model)
    peft.set_peft_model_state_dict(model, {"layer.lora_A.weight": down, "layer.lora_B.weight": up})
    x = normal((3, 12), "x")
    torch.testing.assert_close(ours(x), model["layer"](x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", ["full", "int8", "nf4"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_joint_layers_are_each_as_autograd_has_them(form, scale):
    """Two adapted layers of one shape and, in full precision, one without an adapter: outputs and all gradients."""
    layers = [torch.nn.Linear(64, outputs).requires_grad_(False) for outputs in (20, 20, 7)]
    if form != "full":
        layers = [
            QuantisedLinear(one, *quantise(one.weight, form), dtype=torch.float32, device=CPU) for one in layers[:2]
        ]
    weights = [layer.weight.clone() for layer in layers]
    joint = JointLinear(layers)
    assert all(map(torch.equal, (layer.weight for layer in layers), weights)), "the layers are what they were"
    joint.adopt([LowRank(1, 20, 4, 64, scale)] * 2 + [None] * len(layers[2:]))
    joint.factors = tuple(normal((size,), size).requires_grad_() for size in joint.update.sizes)
    x, theirs = (normal((2, 3, 64), "x").requires_grad_() for _ in range(2))
    out = joint(x)
    of_ours = torch.autograd.grad((out * normal(tuple(out.shape), "weights")).sum(), [x, *joint.factors])

    a, b = joint.update.matrices(joint.factors)
    expected = torch.cat(
        [
            torch.nn.functional.linear(theirs, weight, layer.bias)
            + (scale * theirs @ a[index].T @ b[index].T if index < 2 else 0)
            for index, (layer, weight) in enumerate(zip(layers, weights, strict=True))
        ],
        dim=-1,
    )
    of_theirs = torch.autograd.grad((expected * normal(tuple(out.shape), "weights")).sum(), [theirs, *joint.factors])
    for ours, other in zip((out, *of_ours), (expected, *of_theirs), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", [("to_q", "to_v"), ("to_k", "to_v"), ("to_gate_logits",), ("to_q", "to_k", "to_v")])
def test_layers_with_some_adapters_are_as_each_alone(checkpoint, cases, targets):
    """Whatever a LoRA adapts: what a joint product cannot compute, the layers do."""
    outputs = []
    for joint in (True, False):
        model = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
        for block in model.transformer_blocks if not joint else ():
            block.audio_attn1.joint.clear()
        adapters = add_adapters(model, [f"audio_attn1.{target}" for target in targets], 4, seed=0)
        randomize(adapters)
        outputs.append(model(make_stream(cases))[0])
        assert len(adapters) == 3 * len(targets)
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-5)


def test_every_form_gives_the_same_network(transformer, checkpoint, cases, tmp_path):
    """As other tools write the same LoRA: their names, and alpha beside matrices that are larger for it."""
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    randomize(adapters)
    save_lora(tmp_path / "ours.safetensors", adapters, {})
    outputs = []
    for file, naming in (
        ("ours", None),
        ("down-up", lambda name: f"diffusion_model.{name}"),
        ("diffusers", lambda name: f"transformer.{name}"),
        ("bare", lambda name: name),
        ("flat", lambda name: f"lora_unet_model_{name.replace('.', '_')}"),
        ("lycoris", lambda name: f"lycoris_{name.replace('.', '_')}"),
        ("peft", lambda name: f"base_model.model.{name}"),
        ("checkpoint", lambda name: f"model.diffusion_model.{name}"),
        ("dotted", lambda name: f"lora_unet.{name}"),
    ):
        path = tmp_path / f"{file}.safetensors"
        if naming is not None:
            ours = open_lora(tmp_path / "ours.safetensors")
            halves = {naming(name): ours.read_pair(name) for name in ours.layers}
            save_file(
                {f"{name}.lora_down.weight": down for name, (down, _) in halves.items()}
                | {f"{name}.lora_up.weight": 4 * up for name, (_, up) in halves.items()}
                | {f"{name}.alpha": torch.tensor(2.0) for name in halves},
                path,
            )
        model = load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32)
        layers = apply_lora(model, open_lora(path), 0.5).layers
        assert {layer.update.scale for layer in layers.values()} == {0.5 if naming is None else 0.125}
        outputs.append(model(make_stream(cases))[0])
    # 4 and 1/4 are powers of two: not a bit may differ.
    assert all(torch.equal(output, outputs[0]) for output in outputs[1:])


def test_fewer_layers_and_any_rank_are_enough(transformer, cases, tmp_path):
    before, _ = transformer(make_stream(cases))
    key = "diffusion_model.transformer_blocks.1.audio_ff.net.2"
    down, up = normal((3, 256), "A"), normal((64, 3), "B")
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / "one.safetensors")
    assert len(apply_lora(transformer, open_lora(tmp_path / "one.safetensors"), 1.0).layers) == 1
    assert (transformer(make_stream(cases))[0] - before).abs().max() > 1e-3


def test_layers_of_the_video_stream_are_unused_without_a_video(transformer, tmp_path):
    key, video = (f"diffusion_model.transformer_blocks.0.{part}attn1.to_q" for part in ("audio_", ""))
    halves = {f"{key}.lora_A.weight": torch.ones(8, 64), f"{key}.lora_B.weight": torch.ones(64, 8)}
    width = transformer.config.video.width
    theirs = {f"{video}.lora_A.weight": torch.ones(8, width), f"{video}.lora_B.weight": torch.ones(width, 8)}
    save_file(theirs, tmp_path / "video.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no layer of this LoRA can be used: .*attn1\.to_q: part of the video stream"
    ):
        apply_lora(transformer, open_lora(tmp_path / "video.safetensors"), 1.0)
    save_file({**halves, **theirs}, tmp_path / "both.safetensors")
    applied = apply_lora(transformer, open_lora(tmp_path / "both.safetensors"), 1.0)
    assert list(applied.layers) == ["transformer_blocks.0.audio_attn1.to_q"]
    assert applied.unused == {
        "transformer_blocks.0.attn1.to_q": "part of the video stream, which does not run in this mode"
    }


def test_what_fits_is_used_and_the_rest_is_named(transformer, tmp_path):
    """Also beside layers of the text projection, of another network, and keys that are no adapter's."""
    key = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    text = "text_embedding_projection.audio_aggregate_embed"
    tensors = {}
    for layer, width in ((key, 64), (text, 120), ("lora_te1_encoder_q", 8), (key.replace("blocks.0", "blocks.9"), 64)):
        tensors |= {f"{layer}.lora_A.weight": torch.ones(8, width), f"{layer}.lora_B.weight": torch.ones(64, 8)}
    tensors |= {f"{key}.lora_B.bias": torch.ones(64), "step": torch.ones(1)}
    save_file(tensors, tmp_path / "mixed.safetensors")
    applied = apply_lora(transformer, open_lora(tmp_path / "mixed.safetensors"), 1.0)
    assert list(applied.layers) == ["transformer_blocks.0.audio_attn1.to_q"]
    assert applied.unused == {
        text: "part of the text conditioning, which only `sonolora merge` updates",
        "lora_te1_encoder_q": "not a layer of LTX-2.3",
        "transformer_blocks.9.audio_attn1.to_q": "the base has no such layer",
        f"{key}.lora_B.bias": "an update of a bias",
        "step": "not a key of an adapter",
    }


def test_adapters_of_full_rank_change_the_network_by_their_delta(checkpoint, cases, tmp_path):
    """LoKr and LoHa, full and quantised base, against the same change of the weight; and they come off again."""
    key = "transformer_blocks.0.audio_attn1.to_q"
    side = {"lokr_w1": normal((4, 4), "w1"), "lokr_w2_a": normal((16, 2), "a"), "lokr_w2_b": normal((2, 16), "b")}
    delta = 0.5 * torch.kron(side["lokr_w1"], side["lokr_w2_a"] @ side["lokr_w2_b"])
    save_file(
        {f"lycoris_{key.replace('.', '_')}.{name}": tensor for name, tensor in side.items()}
        | {f"lycoris_{key.replace('.', '_')}.alpha": torch.tensor(1.0)},
        tmp_path / "lokr.safetensors",
    )
    for weights in ("full", "nf4"):

        def load(weights=weights):
            policy = WeightPolicy(weights)
            return load_transformer(checkpoint, video=False, device=CPU, dtype=torch.float32, policy=policy)

        model, expected = load(), load()
        applied = apply_lora(model, open_lora(tmp_path / "lokr.safetensors"), 0.25)
        assert isinstance(applied.layers[key], UpdatedLinear)
        block = expected.transformer_blocks[0].audio_attn1
        linear = torch.nn.Linear(64, 64)
        linear.load_state_dict({"weight": block.to_q.weight + 0.25 * delta, "bias": block.to_q.bias})
        block.to_q = linear.requires_grad_(False)
        block.joint.clear()  # which still holds the old weight
        found, base = model(make_stream(cases))[0], load()(make_stream(cases))[0]
        torch.testing.assert_close(found, expected(make_stream(cases))[0], rtol=1e-4, atol=1e-5)
        assert (found - base).norm() > 0.01 * base.norm()
        remove_adapters(model)
        assert torch.equal(model(make_stream(cases))[0], base)


@pytest.mark.parametrize(
    ("layer", "down", "words"),
    [
        (
            "transformer_blocks.9.audio_attn1.to_q",
            torch.zeros(8, 64),
            "to_q: the base has no such layer",
        ),
        ("transformer_blocks.0.attn1.to_q", torch.zeros(8, 3), "part of the video stream"),
        (
            "transformer_blocks.0.audio_attn1.to_q",
            torch.zeros(8, 32),
            r"its shape is \(64, 32\), in the base \(64, 64\)",
        ),
        ("transformer_blocks.0.audio_attn1.to_q", torch.full((8, 64), torch.nan), "holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_stays_as_it_was(layer, down, words, transformer, tmp_path):
    key = f"diffusion_model.{layer}"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": torch.zeros(64, 8)}, tmp_path / "l.safetensors")
    with pytest.raises(CheckpointError, match=words):
        apply_lora(transformer, open_lora(tmp_path / "l.safetensors"), 1.0)
    assert not any(isinstance(module, LoRALinear) for module in transformer.modules())
