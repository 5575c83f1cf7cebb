"""The transformer against diffusers' and against the published structure."""

from __future__ import annotations

import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.loaders import LTX2LoraLoaderMixin
from torch import Tensor

from diffusers_twin import diffusers_transformer
from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, rounded_to_bf16, save_lora
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_stack import apply_lora
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.ltx.model.transformer import Stream, Transformer, load_transformer
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.training.step_phases import flop_counter

CPU = torch.device("cpu")
PUBLISHED = {  # sizes of the published model; everything else as in the golden one
    "num_layers": 48,
    "num_attention_heads": 32,
    "attention_head_dim": 128,
    "in_channels": 128,
    "out_channels": 128,
    "cross_attention_dim": 4096,
    "caption_channels": 3840,
    "audio_num_attention_heads": 32,
    "audio_attention_head_dim": 64,
    "audio_in_channels": 128,
    "audio_out_channels": 128,
    "audio_cross_attention_dim": 2048,
}


@pytest.fixture(scope="module")
def ours(checkpoint: Checkpoint) -> Transformer:
    return load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(ours: Transformer) -> LTX2VideoTransformer3DModel:
    return diffusers_transformer(ours).eval()


def run_theirs(model, cases, audio_latents: Tensor, sigma_B: Tensor, *, isolate: bool) -> tuple[Tensor, Tensor]:
    tokens = cases["video_latents"].shape[1]
    video, audio = model(
        hidden_states=cases["video_latents"],
        audio_hidden_states=audio_latents,
        encoder_hidden_states=cases["video_context"],
        audio_encoder_hidden_states=cases["audio_context"],
        timestep=1000 * sigma_B[:, None].expand(-1, tokens),
        audio_timestep=1000 * sigma_B[:, None].expand(-1, audio_latents.shape[1]),
        sigma=1000 * sigma_B,
        video_coords=cases["video_positions"],
        audio_coords=cases["audio_positions_seconds"],
        isolate_modalities=isolate,
        return_dict=False,
    )
    return audio, video


@pytest.mark.parametrize("alone", [True, False], ids=["audio alone", "equal sigmas"])
def test_diffusers_agrees(alone, ours, theirs, cases):
    sigma_B = torch.tensor([0.35, 0.8])
    x = cases["audio_latents"].clone().requires_grad_()
    audio = Stream(x, cases["audio_positions_seconds"].mean(-1), sigma_B, cases["audio_context"])
    video = Stream(cases["video_latents"], cases["video_positions"].mean(-1), sigma_B, cases["video_context"])
    velocity, video_velocity = ours(audio, None if alone else video)
    (velocity * cases["grad_weight"]).sum().backward()
    y = cases["audio_latents"].clone().requires_grad_()
    expected, expected_video = run_theirs(theirs, cases, y, sigma_B, isolate=alone)
    (expected * cases["grad_weight"]).sum().backward()
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    if video_velocity is not None:
        torch.testing.assert_close(video_velocity, expected_video, rtol=1e-4, atol=1e-5)


def test_diffusers_loads_our_lora_to_the_same_output(checkpoint, theirs, cases, tmp_path):
    model = load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)
    adapters = add_adapters(model, (*AUDIO_TARGETS, *VIDEO_TO_AUDIO_TARGETS), 8, seed=0)
    for name, matrix in adapters.matrices(adapters.flat.data).items():
        if name.endswith("lora_B"):
            matrix.copy_(0.05 * normal(tuple(matrix.shape), "B", name))
    save_lora(tmp_path / "lora.safetensors", adapters, {"mode": "v2a"})
    sigma_B = torch.tensor([0.35, 0.8])
    audio = Stream(cases["audio_latents"], cases["audio_positions_seconds"].mean(-1), sigma_B, cases["audio_context"])
    video = Stream(cases["video_latents"], cases["video_positions"].mean(-1), sigma_B, cases["video_context"])
    with rounded_to_bf16(adapters):
        ours, _ = model(audio, video)
    state = LTX2LoraLoaderMixin.lora_state_dict(str(tmp_path / "lora.safetensors"))
    before, _ = run_theirs(theirs, cases, cases["audio_latents"], sigma_B, isolate=False)
    LTX2LoraLoaderMixin.load_lora_into_transformer(state, theirs)
    try:
        expected, _ = run_theirs(theirs, cases, cases["audio_latents"], sigma_B, isolate=False)
    finally:
        theirs.unload_lora()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (expected - before).abs().max() > 0.1, "and it does something"


@pytest.mark.parametrize("rslora", [False, True])
def test_a_lora_of_diffusers_is_read_to_the_same_output(rslora, ours, checkpoint, theirs, cases, tmp_path):
    """Every kind of layer, with its names and PEFT's scales, as diffusers itself trains and saves them."""
    peft = pytest.importorskip("peft")
    targets = [name for name, module in theirs.named_modules() if isinstance(module, torch.nn.Linear)]
    config = peft.LoraConfig(
        r=4,
        lora_alpha=2,
        use_rslora=rslora,
        target_modules=targets,
        rank_pattern={"audio_attn1.to_q": 3},
        alpha_pattern={"audio_ff.net.2": 8, "^proj_in": 5},
    )
    theirs.add_adapter(config)
    try:
        state = peft.get_peft_model_state_dict(theirs, adapter_name="default")
        state = {key: 0.05 * normal(tuple(tensor.shape), key) for key, tensor in state.items()}
        peft.set_peft_model_state_dict(theirs, state)
        LTX2LoraLoaderMixin.save_lora_weights(
            tmp_path, state, transformer_lora_adapter_metadata=theirs.peft_config["default"].to_dict()
        )
        sigma_B = torch.tensor([0.35, 0.8])
        expected, expected_video = run_theirs(theirs, cases, cases["audio_latents"], sigma_B, isolate=False)
    finally:
        theirs.unload_lora()
    model = load_transformer(checkpoint, video=True, device=CPU, dtype=torch.float32)
    lora = open_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(apply_lora(model, lora, 1.0).layers) == len(targets)
    audio = Stream(cases["audio_latents"], cases["audio_positions_seconds"].mean(-1), sigma_B, cases["audio_context"])
    video = Stream(cases["video_latents"], cases["video_positions"].mean(-1), sigma_B, cases["video_context"])
    velocity, video_velocity = model(audio, video)
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(video_velocity, expected_video, rtol=1e-4, atol=1e-5)
    assert (expected - ours(audio, video)[0]).abs().max() > 0.1, "and it does something"


@pytest.mark.parametrize(
    ("video", "tensors", "parameters"), [(False, 1_457, 3_286_408_320), (True, 4_186, 18_988_838_144)]
)
def test_published_structure(video, tensors, parameters, checkpoint):
    config = TransformerConfig.from_header({**checkpoint.section("transformer"), **PUBLISHED})
    with torch.device("meta"):
        model = Transformer(config, video=video)
    assert len(model.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_video_needs_the_video_stream(transformer, cases):
    sigma_B = torch.tensor([0.5, 0.5])
    audio = Stream(cases["audio_latents"], cases["audio_positions_seconds"].mean(-1), sigma_B, cases["audio_context"])
    video = Stream(cases["video_latents"], cases["video_positions"].mean(-1), sigma_B, cases["video_context"])
    with pytest.raises(ValueError, match="without its video stream"):
        transformer(audio, video)


@pytest.mark.parametrize(
    ("key", "value"), [("rope_type", "interleaved"), ("share_ff", True), ("cross_attention_adaln", False)]
)
def test_other_architectures_are_refused_by_name(key, value, checkpoint):
    with pytest.raises(CheckpointError, match=key):
        TransformerConfig.from_header({**checkpoint.section("transformer"), key: value})


def test_a_missing_size_is_named(checkpoint):
    header = {key: value for key, value in checkpoint.section("transformer").items() if key != "num_layers"}
    with pytest.raises(CheckpointError, match="num_layers"):
        TransformerConfig.from_header(header)


def test_a_video_velocity_that_is_not_asked_for_is_not_computed(ours, cases):
    """The audio's is bit-identical without it; the last block then leaves the video where the audio has read it."""
    sigma_B = torch.tensor([0.35, 0.8])
    audio = Stream(cases["audio_latents"], cases["audio_positions_seconds"].mean(-1), sigma_B, cases["audio_context"])
    video = Stream(cases["video_latents"], cases["video_positions"].mean(-1), 0 * sigma_B, cases["video_context"])
    flops, velocities = [], []
    for wanted in (True, False):
        with flop_counter() as counter, torch.no_grad():
            velocities.append(ours(audio, video, video_velocity=wanted))
        flops.append(counter.get_total_flops())
    assert torch.equal(velocities[0][0], velocities[1][0])
    assert velocities[1][1] is None
    batch, tokens, _ = video.latents_BTC.shape
    feed_forward = 2 * batch * tokens * 8 * ours.config.video.width**2
    assert flops[0] - flops[1] > feed_forward
