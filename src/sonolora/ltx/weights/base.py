"""Finds base models by name, folder or Hugging Face id.

In: the name of a built-in or registered base, a folder, or a Hugging Face id. Out: its checkpoint, the folder of its
text encoder, and a fingerprint. A base folder holds one checkpoint in the published single-file format
(`*.safetensors`) and `text_encoder/`, a Gemma 3 folder in Hugging Face format.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.hub import TEXT_ENCODER, HubId, fetch_text_encoder, open_from_hub, open_local
from sonolora.ltx.weights.registry import Entry, register, registered
from sonolora.ltx.weights.verify import open_checkpoint, verify, verify_text_encoder

BUILT_IN = Path(__file__).parents[2] / "bases"
BUILT_IN_NAMES = ("tiny",)
_LAYOUT = "a base folder holds exactly one checkpoint (*.safetensors) and the folder text_encoder/"
_MAX_SHOWN = 3  # differences in one message


@dataclass(frozen=True)
class Base:
    """A base model on disk."""

    name: str  # as given
    checkpoint: Checkpoint
    text_encoder: Path
    fingerprint: str  # 16 hex digits of checkpoint, tokenizer and text encoder


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
        return _from_entry(name_or_path, entry)
    if folder.exists():
        return _from_folder(name_or_path, folder)
    # A text whose first part is an existing folder is meant as a path, not as a hub id.
    if HubId.parse(name_or_path) is None or folder.parent.exists():
        raise SonoloraError(
            f"no base '{name_or_path}'; known bases: {', '.join([*BUILT_IN_NAMES, *registered()])}. Add one with "
            f"`sonolora base add {name_or_path} --checkpoint FILE --text-encoder DIR`, or give a folder or a Hugging "
            f"Face id; {_LAYOUT}"
        )
    return _from_entry(name_or_path, add_base(name_or_path, name_or_path, TEXT_ENCODER))


def add_base(name: str, checkpoint: str, text_encoder: str) -> Entry:
    """Register a base under a name, after comparing its headers with the published LTX-2.3.

    Checkpoint and text encoder are paths or Hugging Face ids. Of a checkpoint on the hub only the header is read now;
    a text encoder on the hub is downloaded. Raises `CheckpointError` naming the differences from the published model,
    and `SonoloraError` for a name that is taken.
    """
    if name in BUILT_IN_NAMES or Path(name).expanduser().exists():
        raise SonoloraError(f"the name '{name}' is taken by a built-in base or a path; choose another")
    path, hub_id = Path(checkpoint).expanduser(), HubId.parse(checkpoint)
    opened = open_checkpoint(path) if path.exists() or hub_id is None else open_from_hub(hub_id)
    if differences := verify(opened).differences:
        raise CheckpointError(
            f"{checkpoint} is not the published LTX-2.3: {len(differences)} differences (`sonolora base verify "
            f"{checkpoint}` lists them all), such as {'; '.join(differences[:_MAX_SHOWN])}"
        )
    folder, hub_id = Path(text_encoder).expanduser(), HubId.parse(text_encoder)
    if not folder.exists() and hub_id is not None:
        folder = fetch_text_encoder(hub_id)
    if faults := verify_text_encoder(folder):
        raise CheckpointError("; ".join(faults[:_MAX_SHOWN]))
    entry = Entry(opened.path.absolute(), folder.absolute())
    register(name, entry)
    return entry


def _from_entry(name: str, entry: Entry) -> Base:
    checkpoint = open_local(entry.checkpoint)
    if not (entry.text_encoder / "config.json").is_file():
        raise CheckpointError(f"the base '{name}': the text encoder is no longer at {entry.text_encoder}; add it again")
    return Base(name, checkpoint, entry.text_encoder, _fingerprint(checkpoint, entry.text_encoder))


def _from_folder(name: str, folder: Path) -> Base:
    checkpoints = sorted(folder.glob("*.safetensors"))
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
    if len(checkpoints) != 1:
        found_names = ", ".join(path.name for path in checkpoints) or "none"
        raise CheckpointError(f"{folder}: {_LAYOUT}; checkpoints found: {found_names}")
    if not (text_encoder / "config.json").is_file():
        raise CheckpointError(f"{folder}: {_LAYOUT}; there is no text_encoder/config.json")
    checkpoint = Checkpoint.open(checkpoints[0])
    return Base(name, checkpoint, text_encoder, _fingerprint(checkpoint, text_encoder))


def _fingerprint(checkpoint: Checkpoint, text_encoder: Path) -> str:
    digest = hashlib.sha256(checkpoint.fingerprint().encode())
    for path in sorted(text_encoder.iterdir()):
        if path.suffix == ".safetensors":
            digest.update(f"{path.name} {Checkpoint.open(path).fingerprint()}".encode())
        elif path.suffix in (".json", ".model"):  # config, tokenizer
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
