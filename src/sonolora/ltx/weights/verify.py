"""Whether a file is the published LTX-2.3: every difference by name, or what it is instead.

In: a checkpoint, opened or as a path, and a text encoder's folder. Out: lines of text, one a difference; none where
everything is as published. Files that are another thing (LTX-2 19B, LTX-2.5, fp8, a LoRA, a part, a folder of
diffusers, ...) are refused with a sentence that says what they are. Only headers are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_TEXT_STATES, LTX23_VERSION
from sonolora.ltx.weights.tensor_table import needed, published_tensors
from sonolora.ltx.weights.transformer_config import TransformerConfig

WANTED = "Sonolora needs ltx-2.3-22b-dev.safetensors (46 GB, huggingface.co/Lightricks/LTX-2.3)"
WANTED_TEXT_ENCODER = "LTX-2.3 needs the folder of google/gemma-3-12b-it-qat-q4_0-unquantized"
_TRANSFORMER = "model.diffusion_model."
_PARTS = {
    "the transformer": f"{_TRANSFORMER}transformer_blocks.",
    "the text connectors": f"{_TRANSFORMER}audio_embeddings_connector.",
    "the text projections": "text_embedding_projection.",
    "the audio VAE": "audio_vae.",
    "the vocoder": "vocoder.",
    "the video VAE": "vae.",
}
_LORA_ENDINGS = (".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".lora_A", ".lora_B")
_QUANTISED_ENDINGS = (".weight_scale", ".scale_weight", ".input_scale", ".scale_input", ".comfy_quant", ".absmax")
_QUANTISED_DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "U8", "I8", "F4")
_BEGINNINGS = {
    b"GGUF": "a GGUF file, quantised for other programs",
    b"PK\x03\x04": "an archive, such as PyTorch's own .pt and .ckpt",
    b"version https://git-lfs": "a git LFS pointer that stands for a file which was never fetched (`git lfs pull`)",
    b"<": "a web page: the download brought an error or a login page instead of the file",
}
_ABSENT = object()


@dataclass(frozen=True)
class Findings:
    """What a comparison found. `differences` is empty for the published model; `notes` change nothing."""

    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file that should be a checkpoint. Raises `CheckpointError`, where possible saying what it is instead."""
    if path.is_dir():
        raise CheckpointError(f"{path}: {_folder(path)}. {WANTED}.")
    try:
        return Checkpoint.open(path)
    except CheckpointError as error:
        start = _start(path)
        kind = next((kind for beginning, kind in _BEGINNINGS.items() if start.startswith(beginning)), None)
        if kind is None:
            raise
        raise CheckpointError(f"{path}: this is {kind}. {WANTED}.") from error


def verify(
    checkpoint: Checkpoint, config: Mapping[str, Any] = LTX23_CONFIG, text_states: int = LTX23_TEXT_STATES
) -> Findings:
    """Hold a checkpoint to the table of a header config: names, shapes, dtypes and header values.

    An excerpt is held to the part that the modes it was made for need. Raises `CheckpointError` with one sentence
    for a file that is another thing altogether.
    """
    if (kind := recognise(checkpoint)) is not None:
        raise CheckpointError(f"{checkpoint.path}: this is {kind}. {WANTED}.")
    table = published_tensors(config, text_states)
    notes = []
    if EXCERPT_OF in checkpoint.metadata:
        video = checkpoint.tensors.keys() > needed(checkpoint.tensors, video=False)
        part = needed(table, video=video)
        table = {name: tensor for name, tensor in table.items() if name in part}
        notes.append(f"an excerpt, for {'all' if video else 'the five audio'} modes")
    differences = []
    for name in sorted(table.keys() | checkpoint.tensors.keys()):
        expected, found = table.get(name), checkpoint.tensors.get(name)
        if expected is None and found is not None:
            differences.append(f"unexpected: {name} {found.dtype} {found.shape}")
        elif expected is not None and found is None:
            differences.append(f"missing: {name} {expected.dtype} {expected.shape}")
        elif expected is not None and found is not None:
            if found.shape != expected.shape:
                differences.append(f"shape: {name} is {found.shape}, published {expected.shape}")
            if found.dtype != expected.dtype:
                differences.append(f"dtype: {name} is {found.dtype}, published {expected.dtype}")
    version = checkpoint.metadata.get("model_version")
    if not str(version).startswith(LTX23_VERSION):
        differences.append(f"header: model_version is {version!r}, published {LTX23_VERSION}")
    for path, has, should in _unequal(checkpoint.config, config):
        if should is _ABSENT:
            notes.append(f"header: {path} = {json.dumps(has)}, which the published table does not have")
        elif has is _ABSENT:
            differences.append(f"header: {path} is absent, published {json.dumps(should)}")
        else:
            differences.append(f"header: {path} is {json.dumps(has)}, published {json.dumps(should)}")
    if not any(difference.startswith("header: transformer") for difference in differences):
        try:
            TransformerConfig.from_header(checkpoint.section("transformer"))
        except CheckpointError as error:  # a key that the table does not have, and that changes the network
            differences.append(f"header: {error}")
    return Findings(tuple(differences), tuple(notes))


def recognise(checkpoint: Checkpoint) -> str | None:
    """What a file is, in words, when it is known not to be an LTX-2.3 checkpoint; else None."""
    names, metadata = checkpoint.tensors.keys(), checkpoint.metadata
    version = str(metadata.get("model_version", ""))

    def some(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    if any(name.endswith(_LORA_ENDINGS) for name in names):
        return "a LoRA, which goes on top of a base (`--lora`), not a base"
    if any(name.endswith(_QUANTISED_ENDINGS) for name in names) or any(
        info.dtype in _QUANTISED_DTYPES for info in checkpoint.tensors.values()
    ):
        return "a quantised file (fp8 or smaller), whose weights have lost what training needs"
    if (
        version.startswith("2.5")
        or some("keyframes_abs_pos_embedding", "duration_head.", "tokenizer_json")
        or metadata.keys() & {"gemma_source_checkpoint", "gemma_config"}
    ):
        return "a file of LTX-2.5, another model: its files and LoRAs do not go with those of LTX-2.3"
    if some(_TRANSFORMER) and not some("audio_"):
        return "a video model without sound (LTX-Video)"
    if (
        version.startswith("2.0")
        or some("caption_projection.", "text_embedding_projection.aggregate_embed.")
        or "vocoder.conv_pre.weight" in names
        or (some("audio_attn1.") and not some("to_gate_logits"))
    ):
        return "LTX-2 19B, the model before LTX-2.3: it has no attention gates and another text path and vocoder"
    if some("audio_proj_in.", "time_embed.", "norm_added_q", "resnets."):
        return "one network under the names of diffusers, not the single file with the published names"
    if some("language_model.", "vision_tower.", "embed_tokens."):
        return "a text encoder, which is given as a folder with `--text-encoder`"
    present = [part for part, prefix in _PARTS.items() if any(name.startswith(prefix) for name in names)]
    if not present and any(name.startswith("transformer_blocks.") for name in names):
        return "a transformer alone, without the prefix of its names and without the other networks"
    if not present:
        return f"no checkpoint of LTX-2.3: it holds {len(names)} tensors such as {min(names, default='(none)')}"
    absent = [part for part in _PARTS if part not in present]
    if absent and EXCERPT_OF not in metadata:
        return f"only a part of a checkpoint: it has {', '.join(present)}, but not {', '.join(absent)}"
    return None


def verify_text_encoder(
    folder: Path,
    *,
    states: int = LTX23_TEXT_STATES,
    channels: int = LTX23_CONFIG["transformer"]["caption_channels"],
) -> list[str]:
    """What is wrong with a text encoder's folder: its kind, its sizes, files and tensors that are not there."""
    try:
        model_type, _ = _text_config(folder)
        sizes = text_encoder_sizes(folder)
    except OSError:
        gguf = " It holds a GGUF file, which is quantised for other programs." if any(folder.glob("*.gguf")) else ""
        return [f"{folder}: there is no config.json.{gguf} {WANTED_TEXT_ENCODER}"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"{folder}/config.json does not describe a language model. {WANTED_TEXT_ENCODER}"]
    if not model_type.startswith("gemma3"):
        whose = " (the one of LTX-2.5)" if model_type.startswith("gemma4") else ""
        return [f"{folder}: a text encoder of type {model_type}{whose}. {WANTED_TEXT_ENCODER}"]
    found = []
    if sizes != (states, channels):
        found.append(
            f"{folder}: {sizes[0]} hidden states of width {sizes[1]}, needed are {states} of {channels}. "
            f"{WANTED_TEXT_ENCODER}"
        )
    if not (folder / "tokenizer.json").is_file():
        found.append(f"{folder}: there is no tokenizer.json")
    return found + list(_shard_faults(folder))


def text_encoder_sizes(folder: Path) -> tuple[int, int]:
    """How many hidden states a text encoder gives and how wide they are, from its config.json."""
    _, config = _text_config(folder)
    return config["num_hidden_layers"] + 1, config["hidden_size"]


def _text_config(folder: Path) -> tuple[str, dict[str, Any]]:
    config = json.loads((folder / "config.json").read_bytes())
    return config["model_type"], config.get("text_config", config)


def _shard_faults(folder: Path) -> Iterator[str]:
    index = folder / "model.safetensors.index.json"
    try:
        where = json.loads(index.read_bytes())["weight_map"] if index.is_file() else {}
        shards = {name: Checkpoint.open(folder / name) for name in sorted({*where.values()} or {"model.safetensors"})}
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"{index}: not an index of tensors"
    except CheckpointError as error:
        yield str(error)
    else:
        for name, shard in sorted(where.items()):
            if name not in shards[shard].tensors:
                yield f"{folder / shard}: lacks {name}"


def _unequal(found: Any, published: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: path, what is found, what is published; `_ABSENT` for nothing."""
    if not isinstance(found, dict) or not isinstance(published, dict):
        if found != published:
            yield path, found, published
        return
    for key in sorted(found.keys() | published.keys()):
        yield from _unequal(found.get(key, _ABSENT), published.get(key, _ABSENT), f"{path}.{key}".lstrip("."))


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()
    except OSError:
        return b""


def _folder(folder: Path) -> str:
    inside = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / "model_index.json").is_file():
        return "this is a folder of diffusers, not the single file with the published names"
    if "gemma" in str((folder / "config.json").read_bytes() if (folder / "config.json").is_file() else b""):
        return "this is a text encoder's folder; give it with `--text-encoder`"
    return f"this is a folder{', with ' + ', '.join(inside[:5]) if inside else ''}, not a file"
