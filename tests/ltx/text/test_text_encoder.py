"""Text contexts: the projections and connectors, and the way from a prompt to them."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaTokenizer,
    SiglipVisionConfig,
)

from sonolora.core.errors import CheckpointError
from sonolora.ltx.text.text_encoder import load_text_encoder
from sonolora.ltx.text.text_projector import TextProjector, projector_checkpoint_name
from sonolora.ltx.weights.checkpoint import load_module
from sonolora.ltx.weights.transformer_config import TransformerConfig

CPU = torch.device("cpu")
F32 = torch.float32
TEXT_CONFIG = {  # what the golden checkpoint's projections expect: 4 layers, so 5 states, of width 24
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
}


def make_tokenizer(max_tokens: int = 128) -> GemmaTokenizer:
    """Every byte is a token."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    return GemmaTokenizer(
        vocab={piece: at for at, piece in enumerate(pieces)}, model_max_length=max_tokens, add_bos_token=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text encoder folder that holds the language model alone."""
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    Gemma3TextModel(Gemma3TextConfig(**TEXT_CONFIG)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint, folder):
    return load_text_encoder(checkpoint, folder, video=True, device=CPU, dtype=F32)


def load_projector(checkpoint, stream: str) -> TextProjector:
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    projector = TextProjector(5, config.text_channels, getattr(config, f"{stream}_connector"))
    load_module(
        projector,
        checkpoint,
        checkpoint_name=lambda name: projector_checkpoint_name(stream, name),
        names=[name for name in checkpoint.tensors if f"{stream}_aggregate" in name or f"{stream}_embed" in name],
        device=CPU,
        dtype=F32,
    )
    return projector


@pytest.mark.parametrize("stream", ["audio", "video"])
def test_golden(stream, checkpoint, cases):
    context = load_projector(checkpoint, stream)(cases["text.hidden_states"], cases["text.mask"].bool())
    expected = cases[f"text.{stream}_context"]
    assert (context - expected).abs().max() < 1e-5 * expected.abs().max()


def test_diffusers_agrees(checkpoint):
    """Longer texts than the golden ones: 256 places, so that every register comes twice; any padding."""
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    audio, video = config.audio_connector, config.video_connector
    projectors = {stream: load_projector(checkpoint, stream) for stream in ("audio", "video")}
    theirs = LTX2TextConnectors(
        caption_channels=config.text_channels,
        text_proj_in_factor=5,
        video_connector_num_attention_heads=video.heads,
        video_connector_attention_head_dim=video.head_dim,
        video_connector_num_layers=video.layers,
        video_gated_attn=True,
        audio_connector_num_attention_heads=audio.heads,
        audio_connector_attention_head_dim=audio.head_dim,
        audio_connector_num_layers=audio.layers,
        audio_gated_attn=True,
        rope_type="split",
        per_modality_projections=True,
        video_hidden_dim=video.width,
        audio_hidden_dim=audio.width,
        proj_bias=True,
    )
    renames = {"1d_blocks": "blocks", "q_norm": "norm_q", "k_norm": "norm_k", "aggregate_embed": "text_proj_in"}
    state = {}
    for stream, projector in projectors.items():
        for name, tensor in projector.state_dict().items():
            for old, new in renames.items():
                name = name.replace(old, new)
            state[f"{stream}_{name}"] = tensor
    theirs.load_state_dict(state, strict=True)
    random = torch.Generator().manual_seed(1)
    states = torch.randn(5, 3, 256, config.text_channels, generator=random)
    mask = torch.zeros(3, 256, dtype=torch.bool)
    mask[0, -200:] = True  # left-padded
    mask[1, :7] = True  # right-padded
    mask[2] = True
    expected_video, expected_audio, _ = theirs(states.permute(1, 2, 3, 0), mask.long())
    torch.testing.assert_close(projectors["audio"](states, mask), expected_audio, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(projectors["video"](states, mask), expected_video, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "head_dim", "connector", "projection"),
    [(32, 64, 403_620_096, 385_353_728), (32, 128, 1_612_546_304, 1_156_061_184 - 385_353_728)],
    ids=["audio", "video"],
)
def test_published_structure(heads, head_dim, connector, projection, checkpoint):
    """Tensor and parameter counts of the published file."""
    config = TransformerConfig.from_header(checkpoint.section("transformer")).audio_connector
    with torch.device("meta"):
        projector = TextProjector(49, 3840, replace(config, heads=heads, head_dim=head_dim, layers=8))
    assert len(projector.connector.state_dict()) == 129
    assert sum(parameter.numel() for parameter in projector.connector.parameters()) == connector
    assert sum(parameter.numel() for parameter in projector.aggregate_embed.parameters()) == projection


def test_a_prompt_means_what_the_published_steps_make_of_it(encoder, folder, checkpoint):
    """Left-padded, masked and batched, through the tokenizer's own settings, as the publisher does it."""
    prompts = ["a dog", " rain falls \n"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "left"
    inputs = tokenizer([p.strip() for p in prompts], padding="max_length", max_length=128, return_tensors="pt")
    assert inputs.input_ids[0].tolist()[-6] == tokenizer.bos_token_id  # the tokenizer puts it in front itself
    with torch.no_grad():
        output = Gemma3TextModel.from_pretrained(folder)(**inputs, output_hidden_states=True)
    states, mask = torch.stack(output.hidden_states), inputs.attention_mask.bool()
    for index, context in enumerate(encoder.encode(prompts)):
        for found, stream in ((context.audio, "audio"), (context.video, "video")):
            expected = load_projector(checkpoint, stream)(states, mask)[index]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_contexts(encoder):
    first, empty = encoder.encode(["a dog barks", ""])
    assert first.audio.shape == (128, 64)
    assert first.video.shape == (128, 96)
    assert not first.audio.requires_grad
    assert not torch.allclose(first.audio, empty.audio)


def test_spaces_around_do_not_count(encoder):
    assert torch.equal(encoder.encode([" a dog\n"])[0].audio, encoder.encode(["a dog"])[0].audio)


def test_audio_alone_needs_no_video_tensors(checkpoint, folder, rewrite, encoder):
    without = dict.fromkeys(name for name in checkpoint.tensors if "video_embed" in name or "video_agg" in name)
    assert len(without) > 2
    audio_only = load_text_encoder(rewrite(without), folder, video=False, device=CPU, dtype=F32)
    context = audio_only.encode(["a dog"])[0]
    assert context.video is None
    assert torch.equal(context.audio, encoder.encode(["a dog"])[0].audio)


def test_long_prompts_are_cut_visibly(encoder):
    prompt = "x" * 127
    assert encoder.tokenizer.max_tokens == 128
    assert len(encoder.tokenizer.tokens(prompt)) == 128
    assert len(encoder.tokenizer.tokens(prompt + "yz")) == 130
    same, longer = encoder.encode([prompt, prompt + "yz"])
    assert torch.equal(same.audio, longer.audio)


def test_dtype(checkpoint, folder):
    encoder = load_text_encoder(checkpoint, folder, video=False, device=CPU, dtype=torch.bfloat16)
    with torch.no_grad():
        states = [state for _, _, state in encoder.language_model.states([[2, 7]])]
    assert {state.dtype for state in states} == {torch.bfloat16}
    assert encoder.encode(["a dog"])[0].audio.dtype == torch.bfloat16


def test_the_multimodal_folder(encoder, folder, checkpoint, tmp_path, caplog, capfd):
    """The language model inside the multimodal Gemma 3 gives the same, and nothing is said about its eyes."""
    text = Gemma3TextModel.from_pretrained(folder)
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text.config, vision_config=vision, mm_tokens_per_image=1)
    whole = Gemma3ForConditionalGeneration(config)
    whole.model.language_model.load_state_dict(text.state_dict())
    whole.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "language_model.model.layers.0.mlp.up_proj.weight" in tensors, "as in the published folder"
    published = {
        name if "vision_model" in name else name.replace("vision_tower.", "vision_tower.vision_model."): tensor
        for name, tensor in tensors.items()
    }
    save_file(published, tmp_path / "model.safetensors", {"format": "pt"})
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        loaded = load_text_encoder(checkpoint, tmp_path, video=True, device=CPU, dtype=F32)
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert torch.equal(loaded.encode(["a dog"])[0].video, encoder.encode(["a dog"])[0].video)


def test_a_context_does_not_depend_on_the_prompts_beside_it(encoder):
    prompts = ["a dog", "", "rain falls on leaves " * 4, "a dog barks"]
    for prompt, among in zip(prompts, encoder.encode(prompts), strict=True):
        (alone,) = encoder.encode([prompt])
        assert torch.equal(alone.audio, among.audio) and torch.equal(alone.video, among.video)


def test_progress_is_told_by_hidden_state(encoder):
    notes = []
    encoder.encode(["a dog", "a cat"], notes.append)
    assert notes == [f"texts: hidden state {number} of 5" for number in range(1, 6)]


def test_projectors_are_gone_behind_their_work(encoder):
    encoder.encode(["a dog"])
    assert all(p.is_meta for projector in encoder.projectors.values() for p in projector.parameters())


def test_projectors_that_do_not_fit_are_refused_before_anything_is_read(checkpoint, folder, rewrite):
    name = projector_checkpoint_name("video", "connector.learnable_registers")
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        load_text_encoder(rewrite({name: None}), folder, video=True, device=CPU, dtype=F32)
    load_text_encoder(checkpoint, folder, video=True, device=CPU, dtype=F32)


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_folder_with_a_missing_tensor(checkpoint, folder, tmp_path):
    other = copied(folder, tmp_path)
    tensors = load_file(other / "model.safetensors")
    del tensors["layers.2.mlp.up_proj.weight"]
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj\.weight"):
        load_text_encoder(checkpoint, other, video=False, device=CPU, dtype=F32)


def test_folder_with_another_size_of_gemma(checkpoint, folder, tmp_path):
    other = copied(folder, tmp_path)
    Gemma3TextModel(Gemma3TextConfig(**{**TEXT_CONFIG, "num_hidden_layers": 2})).save_pretrained(other)
    with pytest.raises(CheckpointError, match=r"has 3 hidden states of width 24; .* needs 5 of width 24"):
        load_text_encoder(checkpoint, other, video=False, device=CPU, dtype=F32)


def test_folder_with_another_model(checkpoint, folder, tmp_path):
    other = copied(folder, tmp_path)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gemma2"}))
    with pytest.raises(CheckpointError, match=r"'gemma2'; LTX-2\.3 needs Gemma 3"):
        load_text_encoder(checkpoint, other, video=False, device=CPU, dtype=F32)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_incomplete_folder(missing, checkpoint, folder, tmp_path):
    other = copied(folder, tmp_path)
    (other / missing).unlink()
    with pytest.raises(CheckpointError, match="copy"):
        load_text_encoder(checkpoint, other, video=False, device=CPU, dtype=F32)


def test_text_length_must_fit_the_registers(checkpoint, folder, tmp_path):
    other = copied(folder, tmp_path)
    make_tokenizer(100).save_pretrained(other)
    with pytest.raises(CheckpointError, match="100 tokens, is not a multiple of the 128 registers"):
        load_text_encoder(checkpoint, other, video=False, device=CPU, dtype=F32)
