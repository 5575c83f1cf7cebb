"""Datasets on the server's disk: one folder each, in which the files themselves are the truth.

    <id>/dataset.json    name, mode, trigger phrase, revision
    <id>/files/          clips with their captions (.txt) and masks (_mask.json), as the wire takes them
    <id>/incoming/       what is being written or unpacked

In: files, zips and edits. Out: the same folder, as a zip ready for training. Each change makes a new revision.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sonolora.core.atomic_files import atomic_write, make_folder, write_json
from sonolora.core.errors import InputError
from sonolora.core.file_names import name_key, stem_key
from sonolora.core.frames import Span
from sonolora.data.archive import unpack
from sonolora.data.caption_tables import file_key, read_caption_table
from sonolora.data.captions import tidy
from sonolora.data.dataset_files import discover, may_be_data, metadata_reason
from sonolora.modes import find_mode
from sonolora.modes.pairing import CAPTION_EXTENSION, CAPTION_TABLES, END, MASK_ENDING, START
from sonolora.server.files.names import safe_name

_ID = re.compile(r"[A-Za-z0-9_-]{10,40}")
_INFO = "dataset.json"
_MAX_NAME = 120
_STORED = frozenset({".mp3", ".flac", ".ogg", ".aac", ".m4a", ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})


@dataclass(frozen=True)
class Info:
    """What is known of a dataset besides its files. Times are unix seconds."""

    name: str
    mode: str
    created: float
    changed: float
    trigger_phrase: str = ""
    revision: int = 1
    key_id: str | None = None  # the key that it was made with; None before there were owners


@dataclass(frozen=True)
class Dataset:
    """A dataset at one revision."""

    id: str
    folder: Path
    info: Info

    @property
    def key_id(self) -> str | None:
        return self.info.key_id

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def path(self, name: str) -> Path:
        """The path of one of its files. Raises `InputError` when there is none of that name."""
        path = self.files / name
        if name != safe_name(name) or not path.is_file():
            raise InputError.of("name", f"the dataset has no file {name!r}")
        return path

    def names(self) -> list[str]:
        """Its files, sorted."""
        return sorted(path.name for path in self.files.iterdir() if path.is_file())


class Datasets:
    """The datasets in a folder. One process writes there; any thread may call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()

    def create(self, name: str, mode: str, key_id: str | None = None) -> Dataset:
        """An empty one, which belongs to that key. Raises `InputError` for an unknown mode."""
        find_mode(mode)
        id, now = secrets.token_urlsafe(9), time.time()
        folder = self.folder / id
        for part in ("files", "incoming"):
            make_folder(folder / part)
        info = Info(_clean(name) or "Untitled", mode, now, now, key_id=key_id)
        write_json(folder / _INFO, asdict(info))
        return Dataset(id, folder, info)

    def find(self, id: str) -> Dataset | None:
        if not _ID.fullmatch(id):
            return None
        folder = self.folder / id
        try:
            return Dataset(id, folder, Info(**json.loads((folder / _INFO).read_bytes())))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> list[Dataset]:
        """The most recently changed first."""
        ids = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        found = [dataset for id in ids if (dataset := self.find(id))]
        return sorted(found, key=lambda one: one.info.changed, reverse=True)

    def remove(self, dataset: Dataset) -> None:
        with self._lock:
            shutil.rmtree(dataset.folder, ignore_errors=True)

    def edit(self, dataset: Dataset, **changes: str) -> Dataset:
        """Change its name, mode or trigger phrase."""
        if "mode" in changes:
            find_mode(changes["mode"])
        if "name" in changes:
            changes["name"] = _clean(changes["name"]) or "Untitled"
        if "trigger_phrase" in changes:
            changes["trigger_phrase"] = tidy(changes["trigger_phrase"])
        with self._changing(dataset) as now:
            return self._save(now, **changes)

    def put(self, dataset: Dataset, name: str, content: Path) -> Dataset:
        """Move a complete file into the dataset, in place of one of that name; a zip's files instead of the zip.

        Raises `InputError` for a file that no mode can use, and for a name that stands for two files.
        """
        name = safe_name(name)
        if name.lower().endswith(".zip"):
            return self._put_archive(dataset, content)
        if metadata_reason(name) or not may_be_data(name):
            raise InputError.of("name", f"{name} is no sound, video, caption or mask, so no mode can use it")
        with self._changing(dataset) as now:
            _move_in(now, name, content, {name_key(other): other for other in now.names()})
            self._take_captions_of_tables(now)
            return self._save(now)

    def remove_files(self, dataset: Dataset, names: Iterable[str]) -> Dataset:
        with self._changing(dataset) as now:
            for name in names:
                now.path(name).unlink(missing_ok=True)
            return self._save(now)

    def set_captions(self, dataset: Dataset, captions: dict[str, str]) -> Dataset:
        """Write captions by clip; an empty one removes the file."""
        with self._changing(dataset) as now:
            for clip, text in captions.items():
                path = now.files / f"{_stem(clip)}{CAPTION_EXTENSION}"
                for other in now.names():  # of another letter case or Unicode form
                    if name_key(other) == name_key(path.name) and other != path.name:
                        (now.files / other).unlink()
                if text := tidy(text):
                    with atomic_write(path) as temporary:
                        temporary.write_text(f"{text}\n", encoding="utf-8")
                else:
                    path.unlink(missing_ok=True)
            return self._save(now)

    def set_mask(self, dataset: Dataset, clip: str, ranges: Sequence[Span]) -> Dataset:
        """Write the ranges to regenerate of a clip, in seconds; none removes the mask."""
        with self._changing(dataset) as now:
            path = now.files / f"{_stem(clip)}{MASK_ENDING}"
            if ranges:
                write_json(path, [list(span) for span in sorted(ranges)])
            else:
                path.unlink(missing_ok=True)
            return self._save(now)

    def write_zip(self, dataset: Dataset, path: Path) -> None:
        """The archive that the wire takes. Equal files make an equal archive."""
        with self._lock, zipfile.ZipFile(path, "w") as archive:
            for name in dataset.names():
                file = dataset.files / name
                packed = zipfile.ZIP_STORED if file.suffix.lower() in _STORED else zipfile.ZIP_DEFLATED
                member = zipfile.ZipInfo(name)
                member.compress_type = packed
                member.file_size = file.stat().st_size
                with file.open("rb") as source, archive.open(member, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)

    @contextmanager
    def _changing(self, dataset: Dataset) -> Iterator[Dataset]:
        """The dataset as it is now, which nothing else changes meanwhile."""
        with self._lock:
            now = self.find(dataset.id)
            if now is None:
                raise InputError.of("dataset", "there is no such dataset any more")
            yield now

    def _save(self, dataset: Dataset, **changes: str) -> Dataset:
        before = dataset.info
        info = replace(before, **changes, revision=before.revision + 1, changed=time.time())  # type: ignore[arg-type]
        write_json(dataset.folder / _INFO, asdict(info))
        return replace(dataset, info=info)

    def _put_archive(self, dataset: Dataset, archive: Path) -> Dataset:
        with tempfile.TemporaryDirectory(dir=dataset.folder / "incoming") as scratch:
            root = Path(scratch) / "files"
            files = discover(root, unpack(archive, root))
            wanted = [name for name in files.names if may_be_data(name)]
            if not wanted:
                raise InputError.of("name", "the zip holds no sound, video or caption")
            keys: dict[str, str] = {}
            for name in wanted:
                key = name_key(safe_name(name))
                if key in keys:
                    raise InputError.of(
                        "name",
                        f"the zip has {keys[key]} and {name}: file names must be unique, whatever their folder. "
                        "Rename one",
                    )
                keys[key] = name
            with self._changing(dataset) as now:
                here = {name_key(name): name for name in now.names()}
                for name in wanted:
                    _move_in(now, safe_name(name), files.path(name), here)
                self._take_captions_of_tables(now)
                return self._save(now)

    def _take_captions_of_tables(self, dataset: Dataset) -> None:
        """Captions of a `metadata.csv` become files beside the clips that have none; an unreadable table stays."""
        names = dataset.names()
        captioned = {stem_key(name) for name in names if name.lower().endswith(CAPTION_EXTENSION)}
        for table in [name for name in names if name.lower() in CAPTION_TABLES]:
            try:
                captions = read_caption_table(dataset.files / table).captions
            except ValueError:
                continue
            clips = [name for name in names if file_key(name) in captions]
            for clip in clips:
                stem = pair_stem(clip) if dataset.info.mode == "a2a" else Path(clip).stem
                if name_key(stem) not in captioned:
                    text = captions[file_key(clip)]
                    (dataset.files / f"{stem}{CAPTION_EXTENSION}").write_text(f"{text}\n", encoding="utf-8")
                    captioned.add(name_key(stem))
            if clips:
                (dataset.files / table).unlink()


def _move_in(dataset: Dataset, name: str, content: Path, here: dict[str, str]) -> None:
    """`here`: the names in the dataset by key. One of another letter case or Unicode form is replaced, too."""
    other = here.get(name_key(name), name)
    if other != name:
        (dataset.files / other).unlink()
    content.chmod(0o600)
    shutil.move(content, dataset.files / name)


def pair_stem(name: str) -> str:
    """The name of the pair that a file of a2a belongs to: without extension, `_start` and `_end`."""
    stem = Path(name).stem
    ending = next((one for one in (START, END) if stem.lower().endswith(one)), "")
    return stem[: len(stem) - len(ending)]


def _stem(clip: str) -> str:
    """The name of a clip, which becomes that of a file beside it."""
    if not clip or safe_name(clip) != clip:
        raise InputError.of("name", f"{clip!r} is not the name of a clip")
    return clip


def _clean(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name).strip()[:_MAX_NAME]


def as_json(dataset: Dataset) -> dict[str, Any]:
    """Without its files."""
    return {"id": dataset.id, **asdict(dataset.info)}
