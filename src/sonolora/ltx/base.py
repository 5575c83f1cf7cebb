"""The base models: what a name or a folder given as the base stands for.

In: the name of a built-in base, or a folder. Out: its checkpoint, its text encoder's folder, and a fingerprint.
A base folder holds one checkpoint in the published single-file format (`*.safetensors`) and `text_encoder/`, a
Gemma 3 folder of Hugging Face's form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sonolora.errors import CheckpointError, SonoloraError
from sonolora.ltx.checkpoint import Checkpoint

BUILT_IN = Path(__file__).parents[1] / "bases"
_MADE_BY = {"tiny": "python tools/tiny/make_random_base.py"}


@dataclass(frozen=True)
class Base:
    """A base model on disk."""

    name: str  # as it was asked for
    checkpoint: Checkpoint
    text_encoder: Path
    fingerprint: str  # 16 hex digits; differs where checkpoint, tokenizer or text encoder differ


def find_base(name_or_path: str) -> Base:
    """The base of that name or in that folder.

    Raises `SonoloraError` for an unknown name and `CheckpointError` for a folder that does not hold a base; both
    say what is expected.
    """
    folder = BUILT_IN / name_or_path if name_or_path in _MADE_BY else Path(name_or_path).expanduser()
    checkpoints = sorted(folder.glob("*.safetensors"))
    text_encoder = folder / "text_encoder"
    holds = "a base folder holds exactly one checkpoint (*.safetensors) and the folder text_encoder/"
    if not folder.is_dir():
        if name_or_path in _MADE_BY:
            raise SonoloraError(f"the base '{name_or_path}' is not there yet: run `{_MADE_BY[name_or_path]}`")
        raise SonoloraError(f"no base '{name_or_path}': known are {', '.join(_MADE_BY)}, or give a folder; {holds}")
    if len(checkpoints) != 1:
        found = ", ".join(path.name for path in checkpoints) or "none"
        raise CheckpointError(f"{folder}: {holds}; checkpoints found: {found}")
    if not (text_encoder / "config.json").is_file():
        raise CheckpointError(f"{folder}: {holds}; there is no text_encoder/config.json")
    checkpoint = Checkpoint.open(checkpoints[0])
    return Base(name_or_path, checkpoint, text_encoder, _fingerprint(checkpoint, text_encoder))


def _fingerprint(checkpoint: Checkpoint, text_encoder: Path) -> str:
    digest = hashlib.sha256(checkpoint.fingerprint().encode())
    for path in sorted(text_encoder.iterdir()):
        if path.suffix == ".safetensors":
            digest.update(f"{path.name} {Checkpoint.open(path).fingerprint()}".encode())
        elif path.suffix in (".json", ".model"):  # config, tokenizer
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
