"""Compares a file with the published LTX-2.3: lists every difference, or says what the file is instead.

In: a checkpoint (opened, or as a path) and a text encoder's folder. Out: one line per difference; none if everything is
as published. Other files (LTX-2 19B, LTX-2.5, fp8, a LoRA, a single network, a diffusers folder, ...) are rejected with
a sentence that names what they are. Only headers are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError, first_few
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint, is_readable
from sonolora.ltx.weights.gguf_file import ARCHITECTURE, GEMMA, is_gguf
from sonolora.ltx.weights.gguf_tokenizer import spiece_model
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_TEXT_STATES, LTX23_VERSION
from sonolora.ltx.weights.parts import PARTS, TRANSFORMER, open_parts
from sonolora.ltx.weights.quantised_formats import unsupported_format
from sonolora.ltx.weights.stored_tensor import PUBLISHED_PRECISION, stored_precision
from sonolora.ltx.weights.tensor_table import needed, published_tensors
from sonolora.ltx.weights.transformer_config import TransformerConfig

EXPECTED = "Sonolora needs ltx-2.3-22b-dev.safetensors (46 GB, huggingface.co/Lightricks/LTX-2.3)"
TEXT_ENCODER = "google/gemma-3-12b-it-qat-q4_0-unquantized"
EXPECTED_TEXT_ENCODER = (
    f"LTX-2.3 needs the folder of {TEXT_ENCODER}, or Gemma 3 12B in one file as for ComfyUI (.safetensors, .gguf)"
)
SPIECE_MODEL = "spiece_model"  # the tensor with the tokenizer in a single file
_EMBEDDINGS = "embed_tokens.weight"
_A_TEXT_ENCODER = "a text encoder; pass it with `--text-encoder`"
_LORA_PARTS = (".lora_A", ".lora_B", ".lora_down", ".lora_up", ".lora.down", ".lora.up", ".lokr_w", ".hada_w")
_LOST = ": what was lost by rounding is gone; a LoRA trained on it compensates for that in part"
_BEGINNINGS = {
    b"PK\x03\x04": "an archive, such as PyTorch's own .pt and .ckpt",
    b"version https://git-lfs": "a git LFS pointer, not the file itself (run `git lfs pull`)",
    b"<": "a web page: the download returned an error or a login page instead of the file",
}
_ABSENT = object()


@dataclass(frozen=True)
class Findings:
    """Result of a comparison. `differences` is empty for the published model; `notes` are harmless."""

    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()


def open_checkpoint(*paths: Path) -> Checkpoint:
    """Open a checkpoint of one or more files. Raises `CheckpointError`, if possible saying what a file is instead."""
    for path in paths:
        if path.is_dir():
            raise CheckpointError(f"{path}: {_describe_folder(path)}. {EXPECTED}.")
        if kind := other_format(path):
            raise CheckpointError(f"{path}: this is {kind}. {EXPECTED}.")
    return open_parts(paths)


def verify(
    checkpoint: Checkpoint, config: Mapping[str, Any] = LTX23_CONFIG, text_states: int = LTX23_TEXT_STATES
) -> Findings:
    """Compare a checkpoint with the tensor table of a header config: names, shapes, dtypes and header values.

    A partial checkpoint is compared with the tensors of the modes it was downloaded for. Raises `CheckpointError` with
    one sentence for a file of another kind.
    """
    if (kind := identify(checkpoint)) is not None:
        raise CheckpointError(f"{checkpoint.path}: this is {kind}. {EXPECTED}.")
    table = published_tensors(config, text_states)
    notes = []
    if EXCERPT_OF in checkpoint.metadata:
        video = checkpoint.tensors.keys() > needed(checkpoint.tensors, video=False)
        part = needed(table, video=video)
        table = {name: tensor for name, tensor in table.items() if name in part}
        notes.append(f"a partial checkpoint, for {'all' if video else 'the five audio'} modes")
    differences = []
    other_dtypes: dict[tuple[str, str], list[str]] = {}
    for name in sorted(table.keys() | checkpoint.tensors.keys()):
        expected, actual = table.get(name), checkpoint.tensors.get(name)
        if expected is None and actual is not None:
            differences.append(f"unexpected: {name} {actual.dtype} {actual.shape}")
        elif expected is not None and actual is None:
            differences.append(f"missing: {name} {expected.dtype} {expected.shape}")
        elif expected is not None and actual is not None:
            if actual.shape != expected.shape:
                differences.append(f"shape: {name} is {actual.shape}, published {expected.shape}")
            if actual.dtype != expected.dtype:
                other_dtypes.setdefault((actual.dtype, expected.dtype), []).append(name)
    for (actual_dtype, published), names in other_dtypes.items():
        line = f"dtype: {first_few(names, 1)}: {actual_dtype}, published {published}"
        (notes if is_readable(actual_dtype) else differences).append(line)
    if (precision := stored_precision(checkpoint.tensors)) not in (PUBLISHED_PRECISION, "unknown"):
        notes.append(f"weights are stored as {precision}{_LOST if precision.startswith(('float8', 'GGUF')) else ''}")
    version = checkpoint.metadata.get("model_version")
    if version is None:
        notes.append("header: no model_version; the names, shapes and values decide")
    elif not str(version).startswith(LTX23_VERSION):
        differences.append(f"header: model_version is {version!r}, published {LTX23_VERSION}")
    for path, actual, expected in _json_differences(checkpoint.config, config):
        if expected is _ABSENT:
            notes.append(f"header: {path} = {json.dumps(actual)}, which the published header does not have")
        elif actual is _ABSENT:
            differences.append(f"header: {path} is missing, published {json.dumps(expected)}")
        else:
            differences.append(f"header: {path} is {json.dumps(actual)}, published {json.dumps(expected)}")
    if not any(difference.startswith("header: transformer") for difference in differences):
        try:
            TransformerConfig.from_header(checkpoint.section("transformer"))
        except CheckpointError as error:  # a key that the published header does not have, and that changes the network
            differences.append(f"header: {error}")
    return Findings(tuple(differences), tuple(notes))


def identify(checkpoint: Checkpoint) -> str | None:
    """What a file is, in words, if it is known not to be an LTX-2.3 checkpoint; else None."""
    names, metadata = checkpoint.tensors.keys(), checkpoint.metadata
    version = str(metadata.get("model_version", ""))

    def any_name_has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    if any_name_has(*_LORA_PARTS):
        return "a LoRA, not a base; use it with `--lora`"
    if SPIECE_MODEL in names:
        return _A_TEXT_ENCODER
    if (format := unsupported_format(checkpoint)) is not None:
        return format
    if (
        version.startswith("2.5")
        or any_name_has("keyframes_abs_pos_embedding", "duration_head.", "tokenizer_json")
        or metadata.keys() & {"gemma_source_checkpoint", "gemma_config"}
    ):
        return "a file of LTX-2.5, another model, whose files and LoRAs are not compatible with LTX-2.3"
    if any_name_has(TRANSFORMER) and not any_name_has("audio_"):
        return "a video model without audio (LTX-Video)"
    if (
        version.startswith("2.0")
        or any_name_has("caption_projection.", "text_embedding_projection.aggregate_embed.")
        or "vocoder.conv_pre.weight" in names
        or (any_name_has("audio_attn1.") and not any_name_has("to_gate_logits"))
    ):
        return "LTX-2 19B, the predecessor of LTX-2.3, with other attention, text conditioning and vocoder"
    if any_name_has("audio_proj_in.", "time_embed.", "norm_added_q", "resnets."):
        return "a single network with the parameter names of diffusers, not the published single file"
    if any_name_has("language_model.", "vision_tower.", "embed_tokens."):
        return _A_TEXT_ENCODER
    present = parts_in(checkpoint)
    if not present:
        return f"not a checkpoint of LTX-2.3: it has {len(names)} tensors such as {min(names, default='(none)')}"
    absent = [part for part in PARTS if part not in present]
    if absent and EXCERPT_OF not in metadata:
        return (
            f"only part of a checkpoint: it has {', '.join(present)}, but not {', '.join(absent)}; give all parts, "
            "each with --checkpoint"
        )
    return None


def parts_in(checkpoint: Checkpoint) -> list[str]:
    """The parts of a checkpoint that some names belong to."""
    return [part for part, prefix in PARTS.items() if any(name.startswith(prefix) for name in checkpoint.tensors)]


def verify_text_encoder(
    folder: Path,
    *,
    states: int = LTX23_TEXT_STATES,
    channels: int = LTX23_CONFIG["transformer"]["caption_channels"],
) -> list[str]:
    """What is wrong with a text encoder, a folder or one file: model type, dimensions, missing files and tensors."""
    if folder.is_file():
        return _single_file_faults(folder, states, channels)
    try:
        model_type, _ = _text_config(folder)
        sizes = text_encoder_sizes(folder)
    except OSError:
        gguf = f" For its GGUF file give the file itself: {one}." if (one := next(folder.glob("*.gguf"), None)) else ""
        return [f"{folder}: there is no config.json.{gguf} {EXPECTED_TEXT_ENCODER}"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"{folder}/config.json does not describe a language model. {EXPECTED_TEXT_ENCODER}"]
    if not model_type.startswith("gemma3"):
        version = " (the one of LTX-2.5)" if model_type.startswith("gemma4") else ""
        return [f"{folder}: a text encoder of type {model_type}{version}. {EXPECTED_TEXT_ENCODER}"]
    faults = []
    if sizes != (states, channels):
        faults.append(
            f"{folder}: {sizes[0]} hidden states of width {sizes[1]}, expected {states} of width {channels}. "
            f"{EXPECTED_TEXT_ENCODER}"
        )
    if not (folder / "tokenizer.json").is_file():
        faults.append(f"{folder}: there is no tokenizer.json")
    return faults + list(_shard_faults(folder))


def gemma_prefix(file: Checkpoint) -> str:
    """What precedes the names of the language model's tensors in a file."""
    return next((name.removesuffix(_EMBEDDINGS) for name in file.tensors if name.endswith(_EMBEDDINGS)), "")


def read_spiece_model(file: Checkpoint) -> bytes:
    """The SentencePiece model in a file with a whole text encoder. Raises `CheckpointError` when it has none."""
    if is_gguf(file.path):
        return spiece_model(file.path)
    if (info := file.tensors.get(SPIECE_MODEL)) is None or info.dtype not in ("U8", "I8"):
        raise CheckpointError(
            f"{file.path}: no tokenizer in it (tensor {SPIECE_MODEL}); use such a file for ComfyUI, or the folder of "
            f"{TEXT_ENCODER}"
        )
    with file.path.open("rb") as opened:
        opened.seek(info.start)
        return opened.read(info.end - info.start)


def _single_file_faults(path: Path, states: int, channels: int) -> list[str]:
    if kind := other_format(path):
        return [f"{path}: this is {kind}. {EXPECTED_TEXT_ENCODER}"]
    try:
        file = Checkpoint.open(path)
        architecture = file.metadata.get(ARCHITECTURE, GEMMA)
        if architecture != GEMMA:
            version = " (the one of LTX-2.5)" if architecture == "gemma4" else ""
            return [f"{path}: a GGUF file of type {architecture}{version}. {EXPECTED_TEXT_ENCODER}"]
        read_spiece_model(file)
    except CheckpointError as error:
        return [str(error)]
    prefix = gemma_prefix(file)
    if (format := unsupported_format(file, unless=SPIECE_MODEL)) is not None:
        return [f"{path}: this is {format}"]
    layers = {match[1] for name in file.tensors if (match := re.match(rf"{re.escape(prefix)}layers\.(\d+)\.", name))}
    embeddings = file.tensors.get(prefix + _EMBEDDINGS)
    sizes = len(layers) + 1, embeddings.shape[1] if embeddings is not None else 0
    if sizes == (states, channels):
        return []
    return [
        f"{path}: {sizes[0]} hidden states of width {sizes[1]}, expected {states} of width {channels}. "
        f"{EXPECTED_TEXT_ENCODER}"
    ]


def text_encoder_sizes(folder: Path) -> tuple[int, int]:
    """Number and width of a text encoder's hidden states, from its config.json."""
    _, config = _text_config(folder)
    return config["num_hidden_layers"] + 1, config["hidden_size"]


def _text_config(folder: Path) -> tuple[str, dict[str, Any]]:
    config = json.loads((folder / "config.json").read_bytes())
    return config["model_type"], config.get("text_config", config)


def _shard_faults(folder: Path) -> Iterator[str]:
    index = folder / "model.safetensors.index.json"
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"] if index.is_file() else {}
        shards = {
            name: Checkpoint.open(folder / name) for name in sorted({*weight_map.values()} or {"model.safetensors"})
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"{index}: not a tensor index"
    except CheckpointError as error:
        yield str(error)
    else:
        for name, shard in sorted(weight_map.items()):
            if name not in shards[shard].tensors:
                yield f"{folder / shard}: {name} is missing"


def _json_differences(actual: Any, published: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: path, actual and published value; `_ABSENT` for a missing one."""
    if not isinstance(actual, dict) or not isinstance(published, dict):
        if actual != published:
            yield path, actual, published
        return
    for key in sorted(actual.keys() | published.keys()):
        yield from _json_differences(actual.get(key, _ABSENT), published.get(key, _ABSENT), f"{path}.{key}".lstrip("."))


def other_format(path: Path) -> str | None:
    """What a file is that is not in the safetensors format, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError:
        return None
    return next((kind for beginning, kind in _BEGINNINGS.items() if start.startswith(beginning)), None)


def _describe_folder(folder: Path) -> str:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / "model_index.json").is_file():
        return "this is a diffusers folder, not the published single file"
    if "gemma" in str((folder / "config.json").read_bytes() if (folder / "config.json").is_file() else b""):
        return "this is a text encoder's folder; pass it with `--text-encoder`"
    return f"this is a folder{', with ' + ', '.join(files[:5]) if files else ''}, not a file"
