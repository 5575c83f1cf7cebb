"""Finds bases among the models of a ComfyUI installation: what each file is, and which files make a base together.

In: folders with models. Out: a `Scan`: the files of LTX-2.3 and its relatives, complete bases with the arguments of
`sonolora base add`, and what incomplete ones lack. Only headers are read; files of other models are counted.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.comfyui_folders import ModelFolder
from sonolora.ltx.weights.parts import PARTS, open_parts
from sonolora.ltx.weights.stored_tensor import PUBLISHED_PRECISION, tensor_precision
from sonolora.ltx.weights.verify import (
    gemma_prefix,
    identify,
    other_format,
    parts_in,
    text_encoder_sizes,
    verify,
    verify_text_encoder,
)

TRANSFORMER_PART = "the transformer"
_EXTENSIONS = (".safetensors", ".sft", ".gguf")
_EMBEDDINGS = "embed_tokens.weight"
# What only LTX-2.3 has; the prefixes of `PARTS` occur in other models, too.
_SIGNS = {
    TRANSFORMER_PART: r"transformer_blocks\.0\.audio_attn1\.to_gate_logits\.weight",
    "the text connectors": r"audio_embeddings_connector\.transformer_1d_blocks\.0\.attn1\.to_gate_logits\.weight",
    "the text projections": r"audio_aggregate_embed\.weight",
    "the audio VAE": r"^audio_vae\.per_channel_statistics\.mean-of-means",
    "the vocoder": r"bwe_generator\.conv_pre\.weight",
    "the video VAE": r"^vae\.per_channel_statistics\.mean-of-means",
}
_RELATIVES = ("LTX-2.5", "LTX-2 19B", "quantised")


@dataclass(frozen=True)
class ModelFile:
    """A file, or the folder of a text encoder. `parts` are those of a checkpoint; `unusable` says why it cannot be."""

    path: Path
    what: str  # in words
    precision: str = ""
    parts: tuple[str, ...] = ()
    unusable: str = ""
    states: tuple[int, int] = (0, 0)  # number and width of the hidden states of a text encoder

    @property
    def is_text_encoder(self) -> bool:
        """Whether it is one that is read."""
        return self.states != (0, 0)


@dataclass(frozen=True)
class FoundBase:
    """A transformer with the other files that complete it; `missing` is what no file has."""

    name: str
    files: tuple[ModelFile, ...]
    text_encoders: tuple[ModelFile, ...]  # that fit, the most precise first
    missing: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether it can be added."""
        return not self.missing


@dataclass(frozen=True)
class Scan:
    """What a search has found."""

    files: tuple[ModelFile, ...]
    bases: tuple[FoundBase, ...]
    others: int  # files of other models


def scan(folders: Sequence[ModelFolder]) -> Scan:
    """Search the folders. A file that cannot be read is listed with the reason if its name says LTX, else counted."""
    files: list[ModelFile] = []
    others = 0
    for path in _candidates(folders):
        described = _describe_folder(path) if path.is_dir() else _describe(path)
        if described is None:
            others += 1
        else:
            files.append(described)
    return Scan(tuple(files), tuple(_bases(files)), others)


def _candidates(folders: Iterable[ModelFolder]) -> Iterator[Path]:
    """Model files, and folders with a text encoder, each once."""
    seen: set[Path] = set()
    for folder in folders:
        for place, inside, names in os.walk(folder.path, followlinks=True):
            here = Path(place)
            resolved = here.resolve()
            if resolved in seen:
                inside.clear()
                continue
            seen.add(resolved)
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            if folder.kind in ("text_encoders", "clip", "models") and "config.json" in names and here != folder.path:
                inside.clear()
                yield here
                continue
            for name in sorted(names):
                file = here / name
                if file.suffix in _EXTENSIONS and (real := file.resolve()) not in seen:
                    seen.add(real)
                    yield file


def _describe(path: Path) -> ModelFile | None:
    named_ltx = re.search(r"ltx|gemma.?3", path.name, re.IGNORECASE) is not None
    try:
        if (format := other_format(path)) is not None:
            return ModelFile(path, "not read", unusable=f"this is {format}") if named_ltx else None
        checkpoint = open_parts([path])
    except CheckpointError as error:
        return ModelFile(path, "not read", unusable=str(error).removeprefix(f"{path}: ")) if named_ltx else None
    if (encoder := _text_encoder(path, checkpoint)) is not None:
        return encoder
    parts = tuple(part for part in parts_in(checkpoint) if _has(checkpoint, _SIGNS[part]))
    kind = identify(checkpoint)
    if kind is not None and kind.startswith("a LoRA"):
        is_own = any(re.search(r"audio_attn[12]|audio_ff|to_gate_logits", name) for name in checkpoint.tensors)
        return ModelFile(path, "LoRA") if is_own or named_ltx else None
    if kind is not None and any(word in kind for word in _RELATIVES):
        return ModelFile(path, "not used", unusable=f"this is {kind}") if named_ltx or parts else None
    if not parts:
        return None
    what = "checkpoint" if len(parts) == len(PARTS) else ", ".join(part.removeprefix("the ") for part in parts)
    return ModelFile(path, what, tensor_precision(checkpoint.tensors), parts)


def _text_encoder(path: Path, checkpoint: Checkpoint) -> ModelFile | None:
    """A Gemma 3 in one file: its embedding table has no gates of LTX beside it."""
    embeddings = checkpoint.tensors.get(gemma_prefix(checkpoint) + _EMBEDDINGS)
    if embeddings is None or not _has(checkpoint, r"layers\.0\.pre_feedforward_layernorm\.weight"):
        return None
    layers = {match[1] for name in checkpoint.tensors if (match := re.search(r"layers\.(\d+)\.pre_feedforward", name))}
    sizes = len(layers) + 1, embeddings.shape[1]
    if faults := verify_text_encoder(path, states=sizes[0], channels=sizes[1]):
        return ModelFile(path, "text encoder", unusable=faults[0].removeprefix(f"{path}: "))
    return ModelFile(path, "text encoder", tensor_precision(checkpoint.tensors), states=sizes)


def _describe_folder(path: Path) -> ModelFile | None:
    try:
        sizes = text_encoder_sizes(path)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if faults := verify_text_encoder(path, states=sizes[0], channels=sizes[1]):
        named = "gemma" in path.name.lower()
        return ModelFile(path, "text encoder", unusable=faults[0].removeprefix(f"{path}: ")) if named else None
    weights = [Checkpoint.open(file) for file in sorted(path.glob("*.safetensors"))]
    tensors = {name: info for file in weights for name, info in file.tensors.items()}
    return ModelFile(path, "text encoder", tensor_precision(tensors), states=sizes)


def _has(checkpoint: Checkpoint, sign: str) -> bool:
    return any(re.search(sign, name) for name in checkpoint.tensors)


def _bases(files: Sequence[ModelFile]) -> Iterator[FoundBase]:
    """One for each file with a transformer."""
    parts = [file for file in files if file.parts and TRANSFORMER_PART not in file.parts]
    names: Counter[str] = Counter()
    for file in files:
        if TRANSFORMER_PART not in file.parts:
            continue
        chosen = _completed(file, parts)
        missing = [part for part in PARTS if not any(part in one.parts for one in chosen)]
        encoders: list[ModelFile] = []
        if not missing:
            try:
                checkpoint = open_parts([one.path for one in chosen])
                missing = _differences(checkpoint)
                encoders = _fitting(checkpoint, files)
            except CheckpointError as error:
                missing = [str(error)]
        if not encoders:
            missing.append("a text encoder (Gemma 3 12B)")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.path.stem)
        names[name] += 1
        number = f"-{names[name]}" if names[name] > 1 else ""
        yield FoundBase(name + number, tuple(chosen), tuple(encoders), tuple(missing))


def _completed(file: ModelFile, parts: Sequence[ModelFile]) -> list[ModelFile]:
    """The file and, for what it lacks, others that have nothing twice; the most precise of those that have a part."""
    chosen, present = [file], set(file.parts)
    for part in PARTS:
        if part in present:
            continue
        fitting = [one for one in parts if part in one.parts and not present & set(one.parts)]
        if fitting:
            best = min(fitting, key=lambda one: (one.precision != PUBLISHED_PRECISION, -len(one.parts), str(one.path)))
            chosen.append(best)
            present |= set(best.parts)
    return chosen


def _differences(checkpoint: Checkpoint) -> list[str]:
    """What keeps a checkpoint with all parts from being used."""
    differences = verify(checkpoint, checkpoint.config, _hidden_states(checkpoint)).differences
    return [f"{len(differences)} tensors or values as published, such as {differences[0]}"] if differences else []


def _hidden_states(checkpoint: Checkpoint) -> int:
    """How many hidden states of the text encoder the projections take."""
    info = checkpoint.tensors["text_embedding_projection.audio_aggregate_embed.weight"]
    return info.shape[1] // int(checkpoint.section("transformer")["caption_channels"])


def _fitting(checkpoint: Checkpoint, files: Sequence[ModelFile]) -> list[ModelFile]:
    expected = _hidden_states(checkpoint), int(checkpoint.section("transformer")["caption_channels"])
    fitting = [file for file in files if file.is_text_encoder and file.states == expected]
    return sorted(fitting, key=lambda file: (file.precision != PUBLISHED_PRECISION, str(file.path)))
