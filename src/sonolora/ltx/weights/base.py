"""Finds base models by name, folder or Hugging Face id.

In: the name of a built-in or registered base, a folder, or a Hugging Face id. Out: its checkpoint, the folder of its
text encoder, and a fingerprint. A base folder holds one checkpoint (`*.safetensors`, one file as published or the parts
of one, of which some may be `*.gguf`) and `text_encoder/`, a Gemma 3 folder in Hugging Face format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.distilled import says_distilled
from sonolora.ltx.weights.hub import TEXT_ENCODER, HubId, fetch_text_encoder, open_from_hub, open_local
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_TEXT_STATES
from sonolora.ltx.weights.parts import open_parts
from sonolora.ltx.weights.quantised_formats import unsupported_format
from sonolora.ltx.weights.registry import Entry, register, registered
from sonolora.ltx.weights.stored_tensor import files_of
from sonolora.ltx.weights.verify import (
    identify,
    open_checkpoint,
    read_spiece_model,
    text_encoder_sizes,
    verify,
    verify_text_encoder,
)

BUILT_IN = Path(__file__).parents[2] / "bases"
BUILT_IN_NAMES = ("tiny",)
_LAYOUT = "a base folder holds one checkpoint (*.safetensors, whole or in parts) and the folder text_encoder/"
_MAX_SHOWN = 3  # differences in one message


@dataclass(frozen=True)
class Base:
    """A base model on disk."""

    name: str  # as given
    checkpoint: Checkpoint
    text_encoder: Path  # a folder, or one file
    fingerprint: str  # 16 hex digits of checkpoint, tokenizer and text encoder
    distilled: bool = False  # sampled in 8 steps without guidance


def find_base(name_or_path: str) -> Base:
    """The base with this name, in this folder, or on the Hugging Face hub under this id.

    A base from the hub is registered under its id on first use; its tensors are downloaded when first needed.
    Raises `SonoloraError` for an unknown name and `CheckpointError` for a folder that is not a base; both say what is
    expected.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path in BUILT_IN_NAMES:
        return _from_folder(name_or_path, BUILT_IN / name_or_path)
    if (entry := registered().get(name_or_path)) is not None:
        return open_entry(name_or_path, entry)
    if folder.exists():
        return _from_folder(name_or_path, folder)
    # A text whose first part is an existing folder is meant as a path, not as a hub id.
    if HubId.parse(name_or_path) is None or folder.parent.exists():
        raise SonoloraError(
            f"no base '{name_or_path}'; known bases: {', '.join([*BUILT_IN_NAMES, *registered()])}. Add one with "
            f"`sonolora base add {name_or_path} --checkpoint FILE --text-encoder DIR`, or give a folder or a Hugging "
            f"Face id; {_LAYOUT}"
        )
    return open_entry(name_or_path, add_base(name_or_path, [name_or_path], TEXT_ENCODER))


def add_base(name: str, checkpoints: Sequence[str], text_encoder: str, distilled: bool | None = None) -> Entry:
    """Register a base under a name, after comparing its headers with the published LTX-2.3.

    `checkpoints` are the files of one checkpoint, a folder with these files only, or one Hugging Face id, of which just
    the header is read now. A text encoder on the hub is downloaded. `distilled`: whether it is, if that is known; by
    default its header or its name says so. Raises `CheckpointError` naming the differences
    from the published model, and `SonoloraError` for a name that is taken.
    """
    if name in BUILT_IN_NAMES or Path(name).expanduser().exists():
        raise SonoloraError(f"the name '{name}' is taken by a built-in base or a path; choose another")
    opened = _open_checkpoint(checkpoints)
    if differences := verify(opened, *_reference(opened)).differences:
        raise CheckpointError(
            f"{', '.join(checkpoints)}: not the published LTX-2.3: {len(differences)} differences (`sonolora base "
            f"verify` lists them all), such as {'; '.join(differences[:_MAX_SHOWN])}"
        )
    folder, hub_id = Path(text_encoder).expanduser(), HubId.parse(text_encoder)
    if not folder.exists() and hub_id is not None:
        folder = fetch_text_encoder(hub_id)
    config, states = _reference(opened)
    channels = config["transformer"]["caption_channels"]
    if faults := verify_text_encoder(folder, states=states, channels=channels):
        raise CheckpointError("; ".join(faults[:_MAX_SHOWN]))
    parts = (path.absolute() for path in files_of(opened.tensors, opened.path) if path != opened.path)
    entry = Entry(opened.path.absolute(), folder.absolute(), tuple(parts), distilled)
    register(name, entry)
    return entry


def _reference(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], int]:
    """What a checkpoint is compared with, and its hidden states: LTX-2.3, or the built-in base whose config it has."""
    for name in BUILT_IN_NAMES:
        built_in = find_base(name)
        if checkpoint.metadata.get("config") == built_in.checkpoint.config:
            return built_in.checkpoint.config, text_encoder_sizes(built_in.text_encoder)[0]
    return LTX23_CONFIG, LTX23_TEXT_STATES


def _open_checkpoint(checkpoints: Sequence[str]) -> Checkpoint:
    paths = [Path(checkpoint).expanduser() for checkpoint in checkpoints]
    if len(paths) == 1:
        hub_id = HubId.parse(checkpoints[0])
        if not paths[0].exists() and hub_id is not None:
            return open_from_hub(hub_id)
        inside = _weight_files(paths[0])
        if len(inside) > 1:
            paths = inside
    return open_checkpoint(*paths)


def open_entry(name: str, entry: Entry) -> Base:
    checkpoint = open_parts([entry.checkpoint, *entry.parts]) if entry.parts else open_local(entry.checkpoint)
    _require_readable(checkpoint)
    if not entry.text_encoder.is_file() and not (entry.text_encoder / "config.json").is_file():
        raise CheckpointError(f"the base '{name}': the text encoder is no longer at {entry.text_encoder}; add it again")
    distilled = says_distilled(checkpoint) if entry.distilled is None else entry.distilled
    return Base(name, checkpoint, entry.text_encoder, _fingerprint(checkpoint, entry.text_encoder), bool(distilled))


def _from_folder(name: str, folder: Path) -> Base:
    checkpoints = _weight_files(folder)
    text_encoder = folder / "text_encoder"
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, and a base is a checkpoint with a text encoder. Register both once: "
            f"sonolora base add NAME --checkpoint {folder} --text-encoder DIR"
        )
    if name in BUILT_IN_NAMES and not folder.is_dir():
        raise SonoloraError(
            f"the built-in base '{name}' is missing from this installation ({folder}): reinstall Sonolora"
        )
    try:
        checkpoint = open_parts(checkpoints) if checkpoints else None
        fault = "" if checkpoint is None else (identify(checkpoint) if len(checkpoints) > 1 else None)
    except CheckpointError as error:
        if len(checkpoints) == 1:
            raise
        checkpoint, fault = None, str(error)
    if checkpoint is None or fault is not None:
        names = ", ".join(path.name for path in checkpoints) or "none"
        raise CheckpointError(f"{folder}: {_LAYOUT}; found: {names}{f' ({fault})' if fault else ''}")
    if not (text_encoder / "config.json").is_file():
        raise CheckpointError(f"{folder}: {_LAYOUT}; there is no text_encoder/config.json")
    _require_readable(checkpoint)
    fingerprint = _fingerprint(checkpoint, text_encoder)
    return Base(name, checkpoint, text_encoder, fingerprint, bool(says_distilled(checkpoint)))


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".gguf"))


def _require_readable(checkpoint: Checkpoint) -> None:
    if (format := unsupported_format(checkpoint)) is not None:
        raise CheckpointError(f"{checkpoint.path}: this is {format}")


def _fingerprint(checkpoint: Checkpoint, text_encoder: Path) -> str:
    digest = hashlib.sha256(checkpoint.fingerprint().encode())
    if text_encoder.is_file():
        file = Checkpoint.open(text_encoder)
        digest.update(file.fingerprint().encode() + read_spiece_model(file))
        return digest.hexdigest()[:16]
    for path in sorted(text_encoder.iterdir()):
        if path.suffix == ".safetensors":
            digest.update(f"{path.name} {Checkpoint.open(path).fingerprint()}".encode())
        elif path.suffix in (".json", ".model"):  # config, tokenizer
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
