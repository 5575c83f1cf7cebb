"""Every difference from the published table is named, nothing missing passes, and other files are told apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.weights.base import find_base
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG
from sonolora.ltx.weights.tensor_table import needed, published_tensors
from sonolora.ltx.weights.verify import open_checkpoint, text_encoder_sizes, verify, verify_text_encoder

PREFIX = "model.diffusion_model."
TABLE = {name: TensorInfo(tensor.dtype, tensor.shape, 0, 0) for name, tensor in published_tensors().items()}
METADATA = {"config": LTX23_CONFIG, "model_version": "2.3.0", "license": "text"}
NAME = f"{PREFIX}transformer_blocks.7.audio_attn1.to_q.weight"


def opened(tensors: Mapping[str, TensorInfo] = TABLE, **metadata: Any) -> Checkpoint:
    return Checkpoint(Path("model.safetensors"), tensors, {**METADATA, **metadata})


def without(*parts: str) -> dict[str, TensorInfo]:
    return {name: info for name, info in TABLE.items() if not any(part in name for part in parts)}


def changed_config(path: str, value: Any) -> dict[str, Any]:
    """The published config with one value changed, or taken out where it is `...`."""
    config = json.loads(json.dumps(LTX23_CONFIG))
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[key] = value
    if value is ...:
        del section[key]
    return config


def test_published_file_passes():
    findings = verify(opened())
    assert findings.differences == ()
    assert findings.notes == ()


@pytest.mark.parametrize("name", [*sorted(TABLE)[::250], NAME])
def test_each_missing_tensor_is_named(name):
    (difference,) = verify(opened({other: info for other, info in TABLE.items() if other != name})).differences
    assert difference == f"missing: {name} {TABLE[name].dtype} {TABLE[name].shape}"


def test_every_kind_of_difference_is_named():
    tensors = dict(TABLE)
    tensors[NAME] = replace(TABLE[NAME], shape=(2048, 1024))
    tensors["audio_vae.extra"] = TensorInfo("BF16", (3,), 0, 0)
    tensors["vocoder.mel_stft.mel_basis"] = replace(tensors["vocoder.mel_stft.mel_basis"], dtype="I64")
    del tensors[f"{PREFIX}audio_scale_shift_table"]
    assert verify(opened(tensors)).differences == (
        "unexpected: audio_vae.extra BF16 (3,)",
        f"missing: {PREFIX}audio_scale_shift_table F32 (2, 2048)",
        f"shape: {NAME} is (2048, 1024), published (2048, 2048)",
        "dtype: vocoder.mel_stft.mel_basis: I64, published BF16",
    )


def test_other_floats_are_notes():
    """They are read; that precision is lost is said."""
    blocks = {
        name for name, info in TABLE.items() if "blocks." in name and len(info.shape) == 2 and info.dtype == "BF16"
    }
    for dtype, words in (
        ("F16", "weights are stored as float16"),
        ("F8_E5M2", "stored as float8 without scales: what"),
    ):
        tensors = {name: replace(info, dtype=dtype) if name in blocks else info for name, info in TABLE.items()}
        findings = verify(opened(tensors))
        assert findings.differences == ()
        assert findings.notes[0].endswith(f" and {len(blocks) - 1} more: {dtype}, published BF16")
        assert words in findings.notes[1]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("transformer.num_layers", 47, "header: transformer.num_layers is 47, published 48"),
        ("transformer.norm_eps", 1e-5, "header: transformer.norm_eps is 1e-05, published 1e-06"),
        ("transformer.rope_type", ..., 'header: transformer.rope_type is missing, published "split"'),
        ("audio_vae.preprocessing.stft.hop_length", 256, "is 256, published 160"),
        ("vocoder.bwe.upsample_rates", [6, 5, 2, 2, 4], "header: vocoder.bwe.upsample_rates is [6, 5, 2, 2, 4]"),
        ("transformer.ff_bias", False, "ff_bias=False where LTX-2.3 has True"),
        ("transformer.use_prompt_adaln_single", False, "use_prompt_adaln_single=False"),
        ("vae", ..., "header: vae is missing"),
    ],
)
def test_header_values(path, value, words):
    (difference,) = verify(opened(config=changed_config(path, value))).differences
    assert words in difference


def test_header_version():
    (difference,) = verify(opened(model_version="2.4.1")).differences
    assert difference == "header: model_version is '2.4.1', published 2.3"


def test_header_values_that_change_nothing_are_notes():
    findings = verify(opened(config=changed_config("transformer.seed", 7)))
    assert findings.differences == ()
    assert findings.notes == ("header: transformer.seed = 7, which the published header does not have",)


def test_no_config():
    with pytest.raises(CheckpointError, match="no model configuration"):
        verify(opened(config="none"))


def test_golden_by_its_own_header(checkpoint):
    assert verify(checkpoint, checkpoint.config, 5).differences == ()
    assert len(verify(checkpoint).differences) > 4000


@pytest.mark.parametrize("video", [False, True])
def test_excerpts_are_held_to_what_their_modes_need(video):
    tensors = {name: TABLE[name] for name in needed(TABLE, video=video)}
    findings = verify(opened(tensors, **{EXCERPT_OF: {"fingerprint": "0"}}))
    assert findings.differences == ()
    assert "all modes" in findings.notes[0] if video else "five audio modes" in findings.notes[0]
    del tensors["vocoder.mel_stft.mel_basis"]
    (difference,) = verify(opened(tensors, **{EXCERPT_OF: {"fingerprint": "0"}})).differences
    assert difference.startswith("missing: vocoder.mel_stft.mel_basis")


def renamed(tensors: Mapping[str, TensorInfo], old: str, new: str) -> dict[str, TensorInfo]:
    return {name.replace(old, new): info for name, info in tensors.items()}


def ltx2_19b() -> dict[str, TensorInfo]:
    """By the differences between the two models: no gates, no prompt modulation, projections inside."""
    tensors = without("to_gate_logits", "prompt_", "text_embedding_projection", "vocoder.")
    tensors["text_embedding_projection.aggregate_embed.weight"] = TensorInfo("BF16", (3840, 188160), 0, 0)
    tensors[f"{PREFIX}caption_projection.linear_1.weight"] = TensorInfo("BF16", (4096, 3840), 0, 0)
    tensors[f"{PREFIX}audio_caption_projection.linear_1.weight"] = TensorInfo("BF16", (2048, 3840), 0, 0)
    tensors["vocoder.conv_pre.weight"] = TensorInfo("BF16", (1024, 128, 7), 0, 0)
    return tensors


FP8 = {name: replace(info, dtype="F8_E4M3") if name == NAME else info for name, info in TABLE.items()}
NVFP4 = {**TABLE, NAME: replace(TABLE[NAME], dtype="U8"), f"{NAME}_scale_2": TensorInfo("F32", (), 0, 0)}
INT8 = {**TABLE, NAME: replace(TABLE[NAME], dtype="I8"), f"{NAME}_scale": TensorInfo("F32", (), 0, 0)}
BLOCK_SCALED = {**FP8, f"{NAME}_scale": TensorInfo("F32", (128, 128), 0, 0)}
LORA = {f"diffusion_model.transformer_blocks.0.audio_attn1.to_q.lora_{x}.weight": TABLE[NAME] for x in "AB"}
KEYFRAMES = {**TABLE, f"{PREFIX}keyframes_abs_pos_embedding": TensorInfo("BF16", (1, 4096), 0, 0)}
ONLY_TRANSFORMER = {name: info for name, info in TABLE.items() if "transformer_blocks." in name}


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        (ltx2_19b(), {}, "this is LTX-2 19B, the predecessor of LTX-2.3"),
        (without("to_gate_logits"), {}, "this is LTX-2 19B"),
        (TABLE, {"model_version": "2.0.1"}, "this is LTX-2 19B"),
        (TABLE, {"model_version": "2.5.0"}, "this is a file of LTX-2.5, another model"),
        (KEYFRAMES, {"model_version": None}, "this is a file of LTX-2.5"),
        ({"tokenizer_json": TABLE[NAME]}, {"gemma_config": {}}, "this is a file of LTX-2.5"),
        (
            NVFP4,
            {},
            "this is a file quantised to 4 bits .such as nvfp4, int4 or nf4., which is not read; use the file",
        ),
        (INT8, {}, "this is a file quantised to 8-bit integers"),
        (BLOCK_SCALED, {}, "this is a quantised file in an unknown format, which is not read"),
        (LORA, {}, "this is a LoRA, not a base; use it with `--lora`"),
        (renamed(LORA, "lora_A", "lora_down"), {}, "this is a LoRA"),
        ({f"{PREFIX}transformer_blocks.0.attn1.to_q.weight": TABLE[NAME]}, {}, "without audio"),
        ({"audio_proj_in.weight": TABLE[NAME], "time_embed.linear.bias": TABLE[NAME]}, {}, "names of diffusers"),
        ({"language_model.model.layers.0.mlp.up_proj.weight": TABLE[NAME]}, {}, "this is a text encoder"),
        ({"spiece_model": TensorInfo("U8", (9,), 0, 0)}, {}, "this is a text encoder; pass it with `--text-encoder`"),
        (ONLY_TRANSFORMER, {}, "it has the transformer, but not the text connectors, the text projections, the audio"),
        ({name: TABLE[name] for name in TABLE if name.startswith("vae.")}, {}, "it has the video VAE, but not the tr"),
        (
            {"initial_conv.weight": TABLE[NAME]},
            {},
            "not a checkpoint of LTX-2.3: it has 1 tensors such as initial_conv",
        ),
        ({}, {}, r"it has 0 tensors such as \(none\)"),
    ],
)
def test_other_files_are_told_apart(tensors, metadata, words):
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{words}.*needs ltx-2\.3-22b-dev\.safetensors"):
        verify(opened(tensors, **metadata))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGUF\x03\0\0\0" + bytes(64), r"not a readable GGUF file \(it has no tensors\)"),
        (b"PK\x03\x04" + bytes(64), r"\.pt and \.ckpt"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46148\n", "a git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Please log in</html>", "a web page"),
        (b"something else that is long enough", "not a safetensors file"),
    ],
)
def test_files_that_are_no_safetensors(content, words, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


def test_folders_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="this is a folder, not a file"):
        open_checkpoint(tmp_path)
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"a folder, with x\.safetensors, not a file"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="a text encoder's folder"):
        open_checkpoint(find_base("tiny").text_encoder)
    (tmp_path / "model_index.json").touch()
    with pytest.raises(CheckpointError, match="a diffusers folder"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(tmp_path / "none.safetensors")


@pytest.fixture
def gemma(tmp_path) -> Path:
    """What Hugging Face's folder of Gemma 3 12B says of itself, with hardly any tensors."""
    sizes = {"hidden_size": 3840, "num_hidden_layers": 48}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": sizes}))
    (tmp_path / "tokenizer.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, shard in shards.items():
        save_file({name: torch.ones(1)}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return tmp_path


def test_text_encoder_passes(gemma):
    assert verify_text_encoder(gemma) == []
    tiny = find_base("tiny").text_encoder
    states, channels = text_encoder_sizes(tiny)
    assert verify_text_encoder(tiny, states=states, channels=channels) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config.json": None}, "there is no config.json"),
        ({"config.json": None, "gemma-q4.gguf": ""}, r"For its GGUF file give the file itself: .*gemma-q4\.gguf"),
        ({"config.json": "[]"}, "does not describe a language model"),
        ({"config.json": '{"model_type": "t5"}'}, "does not describe a language model"),
        ({"config.json": '{"model_type": "t5", "hidden_size": 1, "num_hidden_layers": 1}'}, "of type t5"),
        (
            {"config.json": '{"model_type": "gemma4", "text_config": {"hidden_size": 1, "num_hidden_layers": 1}}'},
            r"of type gemma4 \(the one of LTX-2\.5\)",
        ),
        (
            {"config.json": '{"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}'},
            "35 hidden states of width 2560, expected 49 of width 3840",
        ),
        ({"tokenizer.json": None}, "there is no tokenizer.json"),
        ({"model-00002-of-00002.safetensors": None}, r"model-00002-of-00002\.safetensors: cannot be read"),
        ({"model-00002-of-00002.safetensors": "cut"}, "not a safetensors file"),
        ({"model.safetensors.index.json": '{"weight_map": {"c": "model-00001-of-00002.safetensors"}}'}, "c is missing"),
        ({"model.safetensors.index.json": "{}"}, "not a tensor index"),
        ({"model.safetensors.index.json": None}, r"/model\.safetensors: cannot be read"),
    ],
)
def test_text_encoder_faults_are_named(gemma, change, words):
    for name, text in change.items():
        if text is None:
            (gemma / name).unlink()
        else:
            (gemma / name).write_text(text)
    (fault,) = verify_text_encoder(gemma)
    assert re.search(words, fault)
