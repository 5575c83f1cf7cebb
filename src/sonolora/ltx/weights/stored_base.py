"""Base models in an object store, by fingerprint, for machines that lack them.

    bases/<fingerprint>/base.json            which files there are; without it the base is not complete
    bases/<fingerprint>/<sha256>/<name>      a file

In: a base on this machine. Out: the same base on another one, below `$SONOLORA_MODELS/fingerprints/<fingerprint>`, each
file of which has the SHA-256 that it was published with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sonolora.core.atomic_files import make_folder, write_json
from sonolora.core.errors import CheckpointError
from sonolora.core.object_store import ObjectStore
from sonolora.ltx.weights.base import Base, open_entry
from sonolora.ltx.weights.hub import HubCheckpoint, models_folder
from sonolora.ltx.weights.registry import Entry, stored_record
from sonolora.ltx.weights.stored_tensor import files_of

Progress = Callable[[int, int], None]  # bytes so far, bytes in all

_RECORD = "base.json"
_CHECKPOINT, _TEXT_ENCODER = "checkpoint", "text_encoder"
_TEXT_ENCODER_FILES = (".json", ".safetensors", ".model")
_LOOK_SECONDS = 0.2  # between two looks whether another process has fetched it


def is_published(objects: ObjectStore, fingerprint: str) -> bool:
    """Whether the base is in the store, complete. Raises `ObjectStoreError`."""
    return objects.read(stored_record(fingerprint)) is not None


def publish(base: Base, objects: ObjectStore, progress: Progress) -> bool:
    """Put a base into the store; what is there is not put again. False when all was there.

    Raises `CheckpointError` for one that is not whole on this disk, `ObjectStoreError`.
    """
    if isinstance(base.checkpoint, HubCheckpoint):
        source = base.checkpoint.source
        raise CheckpointError(
            f"{base.name}: only a part of it is on this disk. Nodes fetch what they need from the hub where its id is "
            f"the name of the base: --base {source.repository}/{source.file}"
        )
    if is_published(objects, base.fingerprint):
        return False
    files = list(_files(base))
    total = sum(path.stat().st_size for _, path in files)
    stored = {one.name for one in objects.list(f"bases/{base.fingerprint}")}
    record, done = [], 0
    for name, path in files:
        with path.open("rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        record.append({"name": name, "size": path.stat().st_size, "sha256": sha256})
        if (to := _name(base.fingerprint, f"{sha256}/{path.name}")) not in stored:
            objects.put(to, path)
        done += path.stat().st_size
        progress(done, total)
    text = json.dumps({"name": base.name, "distilled": base.distilled, "files": record}, indent=2)
    objects.create(stored_record(base.fingerprint), text.encode())
    return True


def fetched(fingerprint: str, name: str) -> Base | None:
    """The base with this fingerprint that was fetched to this machine, under a name; None when there is none."""
    folder = _folder(fingerprint)
    return _open(folder, name) if (folder / _RECORD).is_file() else None


def fetch(
    fingerprint: str, name: str, objects: ObjectStore, progress: Progress, waiting: Callable[[], None]
) -> Base | None:
    """The base with this fingerprint, fetched to this machine once; None when the store has none.

    A fetch that was cut off is continued. While another process fetches it `waiting` is called, and then this one
    waits. Raises `CheckpointError` when what comes is another base, `ObjectStoreError`, `OutputError`.
    """
    folder = _folder(fingerprint)
    make_folder(folder.parent)
    lock = FileLock(folder.with_name(f"{fingerprint}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire(poll_interval=_LOOK_SECONDS)
    try:
        if (base := fetched(fingerprint, name)) is not None:
            return base
        if (content := objects.read(stored_record(fingerprint))) is None:
            return None
        record = json.loads(content)
        _fetch_files(fingerprint, record["files"], folder, objects, progress)
        write_json(folder / _RECORD, record)
        base = _open(folder, name)
        if base.fingerprint != fingerprint:
            (folder / _RECORD).unlink()
            raise CheckpointError(f"{objects.address}: what is published as base {fingerprint} is {base.fingerprint}")
        return base
    finally:
        lock.release()


def _fetch_files(
    fingerprint: str, files: list[dict[str, Any]], folder: Path, objects: ObjectStore, progress: Progress
) -> None:
    total, before = sum(file["size"] for file in files), 0
    for file in files:
        path = folder / file["name"]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{objects.address}: base {fingerprint} names a file outside its folder")
        if not path.is_file():
            make_folder(path.parent)
            object_name = _name(fingerprint, f"{file['sha256']}/{path.name}")

            def report(done: int, before: int = before) -> None:
                progress(before + done, total)

            if not objects.download(object_name, path, report, sha256=file["sha256"]):
                raise CheckpointError(f"{objects.address}: {object_name} is missing: publish the base again")
        before += file["size"]
        progress(before, total)


def _files(base: Base) -> Iterator[tuple[str, Path]]:
    """All files of a base by name, the text encoder's after the checkpoint's."""
    for path in files_of(base.checkpoint.tensors, base.checkpoint.path):
        yield f"{_CHECKPOINT}/{path.name}", path
    if base.text_encoder.is_file():
        yield f"{_TEXT_ENCODER}/{base.text_encoder.name}", base.text_encoder
        return
    for path in sorted(base.text_encoder.iterdir()):
        if path.suffix in _TEXT_ENCODER_FILES:
            yield f"{_TEXT_ENCODER}/{path.name}", path


def _open(folder: Path, name: str) -> Base:
    record = json.loads((folder / _RECORD).read_bytes())
    paths = [folder / file["name"] for file in record["files"]]
    checkpoint, *parts = (path for path in paths if path.parent.name == _CHECKPOINT)
    text_encoder = folder / _TEXT_ENCODER
    if not (text_encoder / "config.json").is_file():  # one file
        text_encoder = next(path for path in paths if path.parent.name == _TEXT_ENCODER)
    return open_entry(name, Entry(checkpoint, text_encoder, tuple(parts), record["distilled"]))


def _folder(fingerprint: str) -> Path:
    return models_folder() / "fingerprints" / fingerprint


def _name(fingerprint: str, name: str) -> str:
    return f"bases/{fingerprint}/{name}"
