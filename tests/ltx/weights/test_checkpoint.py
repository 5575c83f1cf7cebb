"""The checkpoint reader: it takes exactly what a module has, or says what is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sonolora.core.errors import CheckpointError
from sonolora.ltx.model.transformer import PREFIX, load_transformer
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module

CPU = torch.device("cpu")
A_WEIGHT = PREFIX + "transformer_blocks.1.audio_attn1.to_q.weight"


def load_audio(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32):
    return load_transformer(checkpoint, video=False, device=CPU, dtype=dtype)


def test_missing_tensor_is_named(rewrite):
    with pytest.raises(CheckpointError, match=f"1 tensors missing: {A_WEIGHT}$"):
        load_audio(rewrite({A_WEIGHT: None}))


def test_unexpected_tensor_is_named(rewrite):
    name = PREFIX + "transformer_blocks.1.audio_attn1.to_q.scale"
    with pytest.raises(CheckpointError, match=f"1 tensors unexpected: {name}$"):
        load_audio(rewrite({name: torch.ones(1)}))


def test_other_shape_is_named(rewrite):
    with pytest.raises(CheckpointError, match=r"to_q\.weight \(8, 4\), expected \(64, 64\)"):
        load_audio(rewrite({A_WEIGHT: torch.zeros(8, 4)}))


def test_long_lists_are_cut(rewrite, checkpoint):
    every = dict.fromkeys(checkpoint.names(PREFIX + "transformer_blocks.0.audio_attn"))
    with pytest.raises(CheckpointError, match=rf"{len(every)} tensors missing: .* and {len(every) - 8} more"):
        load_audio(rewrite(every))


def test_audio_alone_reads_only_its_tensors(checkpoint, tmp_path):
    """The same model loads from a file without the video stream, and its video tensors are claimed with video on."""
    own = {PREFIX + name for name in load_audio(checkpoint).state_dict()}
    path = tmp_path / "audio.safetensors"
    metadata = {"config": json.dumps(checkpoint.config)}
    save_file({name: tensor for name, tensor in load_file(checkpoint.path).items() if name in own}, path, metadata)
    assert 0 < len(own) < len(checkpoint.names(PREFIX)) / 2
    load_audio(Checkpoint.open(path))
    with pytest.raises(CheckpointError, match=r"missing: .*adaln_single"):
        load_transformer(Checkpoint.open(path), video=True, device=CPU, dtype=torch.float32)


def test_float32_tables_stay_float32(checkpoint):
    """And the norms of queries and keys are computed in it."""
    for name, tensor in load_audio(checkpoint, torch.bfloat16).state_dict().items():
        in_float32 = any(part in name for part in ("scale_shift_table", "q_norm", "k_norm"))
        assert tensor.dtype == (torch.float32 if in_float32 else torch.bfloat16), name


def test_loaded_modules_are_frozen_copies(checkpoint):
    model = load_audio(checkpoint)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    again = load_audio(checkpoint)
    model.audio_proj_out.weight.zero_()
    assert again.audio_proj_out.weight.any()


def test_modules_need_not_be_on_meta(checkpoint):
    linear = nn.Linear(120, 64)
    load_module(
        linear,
        checkpoint,
        checkpoint_name=lambda name: f"text_embedding_projection.audio_aggregate_embed.{name}",
        names=checkpoint.names("text_embedding_projection.audio_"),
        device=CPU,
        dtype=torch.float32,
    )
    stored = load_file(checkpoint.path)["text_embedding_projection.audio_aggregate_embed.weight"]
    assert torch.equal(linear.weight, stored.float())


def test_truncated_file(checkpoint, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(checkpoint.path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="incomplete or damaged"):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"<!DOCTYPE html><html>not here</html>",
        (20).to_bytes(8, "little") + b"this is not any JSON",
        (2).to_bytes(8, "little") + b"[]",
        (11).to_bytes(8, "little") + b'{"a": "no"}',
    ],
)
def test_not_a_safetensors_file(content, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: "):
        Checkpoint.open(path)


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.open(tmp_path / "none.safetensors")


def test_header(checkpoint, tmp_path):
    assert checkpoint.metadata["model_version"] == "2.3.0"
    assert checkpoint.section("transformer")["num_layers"] == 3
    with pytest.raises(CheckpointError, match="no section 'duration_head'"):
        checkpoint.section("duration_head")
    save_file({"a": torch.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no model configuration"):
        _ = Checkpoint.open(tmp_path / "bare.safetensors").config


def test_fingerprint_tells_models_apart(checkpoint, rewrite):
    same = Checkpoint.open(checkpoint.path).fingerprint()
    assert same == checkpoint.fingerprint()
    assert len(same) == 16
    first = sorted(checkpoint.tensors)[0]
    changed = load_file(checkpoint.path)[first] + 1
    assert rewrite({first: changed}).fingerprint() != rewrite({}).fingerprint()
    assert rewrite({}, {**checkpoint.config, "more": 1}).fingerprint() != rewrite({}).fingerprint()
