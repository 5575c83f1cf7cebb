"""The base models: what a name, a folder or a hub's id given as the base stands for.

In: the name of a built-in or registered base, a folder, or a Hugging Face id. Out: its checkpoint, its text encoder's
folder, and a fingerprint. A base folder holds one checkpoint in the published single-file format (`*.safetensors`)
and `text_encoder/`, a Gemma 3 folder of Hugging Face's form.
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
_HOLDS = "a base folder holds exactly one checkpoint (*.safetensors) and the folder text_encoder/"
_SHOWN = 3  # differences in one message


@dataclass(frozen=True)
class Base:
    """A base model on disk."""

    name: str  # as it was asked for
    checkpoint: Checkpoint
    text_encoder: Path
    fingerprint: str  # 16 hex digits; differs where checkpoint, tokenizer or text encoder differ


def find_base(name_or_path: str) -> Base:
    """The base of that name, in that folder, or on Hugging Face's hub under that id.

    A hub's base is registered under its id at the first time; its tensors come when they are first needed.
    Raises `SonoloraError` for an unknown name and `CheckpointError` for a folder that does not hold a base; both
    say what is expected.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path in BUILT_IN_NAMES:
        return _in_folder(name_or_path, BUILT_IN / name_or_path)
    if (entry := registered().get(name_or_path)) is not None:
        return _of(name_or_path, entry)
    if folder.exists():
        return _in_folder(name_or_path, folder)
    # What lies in a folder that is here is meant as a path.
    if HubId.parse(name_or_path) is None or folder.parent.exists():
        raise SonoloraError(
            f"no base '{name_or_path}': known are {', '.join([*BUILT_IN_NAMES, *registered()])}. Make one known with "
            f"`sonolora base add {name_or_path} --checkpoint FILE --text-encoder DIR`, or give a folder or a Hugging "
            f"Face id; {_HOLDS}"
        )
    return _of(name_or_path, add_base(name_or_path, name_or_path, TEXT_ENCODER))


def add_base(name: str, checkpoint: str, text_encoder: str) -> Entry:
    """Register a base under a name, after comparing what it says of itself with the published LTX-2.3.

    Checkpoint and text encoder are paths or Hugging Face ids; of a hub's checkpoint only the header is read now,
    its text encoder is fetched whole. Raises `CheckpointError` naming what is other than published, and
    `SonoloraError` for a name that is taken.
    """
    if name in BUILT_IN_NAMES or Path(name).expanduser().exists():
        raise SonoloraError(f"the name '{name}' is taken by a built-in base or a path; choose another")
    path, hub_id = Path(checkpoint).expanduser(), HubId.parse(checkpoint)
    opened = open_checkpoint(path) if path.exists() or hub_id is None else open_from_hub(hub_id)
    if differences := verify(opened).differences:
        raise CheckpointError(
            f"{checkpoint} is not the published LTX-2.3. Of {len(differences)} differences (`sonolora base verify "
            f"{checkpoint}` names them all): {'; '.join(differences[:_SHOWN])}"
        )
    folder, hub_id = Path(text_encoder).expanduser(), HubId.parse(text_encoder)
    if not folder.exists() and hub_id is not None:
        folder = fetch_text_encoder(hub_id)
    if faults := verify_text_encoder(folder):
        raise CheckpointError("; ".join(faults[:_SHOWN]))
    entry = Entry(opened.path.absolute(), folder.absolute())
    register(name, entry)
    return entry


def _of(name: str, entry: Entry) -> Base:
    checkpoint = open_local(entry.checkpoint)
    if not (entry.text_encoder / "config.json").is_file():
        raise CheckpointError(f"the base '{name}': its text encoder is no longer at {entry.text_encoder}; add it again")
    return Base(name, checkpoint, entry.text_encoder, _fingerprint(checkpoint, entry.text_encoder))


def _in_folder(name: str, folder: Path) -> Base:
    checkpoints = sorted(folder.glob("*.safetensors"))
    text_encoder = folder / "text_encoder"
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, and a base is a checkpoint with a text encoder. Name both once: "
            f"sonolora base add NAME --checkpoint {folder} --text-encoder DIR"
        )
    if name in BUILT_IN_NAMES and not folder.is_dir():
        raise SonoloraError(f"the embedded base '{name}' is missing from this installation ({folder}): install it anew")
    if len(checkpoints) != 1:
        found = ", ".join(path.name for path in checkpoints) or "none"
        raise CheckpointError(f"{folder}: {_HOLDS}; checkpoints found: {found}")
    if not (text_encoder / "config.json").is_file():
        raise CheckpointError(f"{folder}: {_HOLDS}; there is no text_encoder/config.json")
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
