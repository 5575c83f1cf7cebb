"""The files of an unpacked archive, or of a folder given by the user.

In: a folder. Out: the names of the files that count, and of the others with the reason why they do not.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sonolora.core.errors import InputError, first_few
from sonolora.core.file_names import name_key
from sonolora.media.audio import AUDIO_EXTENSIONS

ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz")
MAC_FILES = (".DS_Store", "Icon\r")
DESKTOP_FILES = ("thumbs.db", "desktop.ini")
SHOWN = 10


@dataclass(frozen=True)
class Files:
    """`names` and the keys of `ignored` are posix paths relative to `root`, sorted; a folder ends in '/'."""

    root: Path
    names: tuple[str, ...]
    ignored: Mapping[str, str]

    def path(self, name: str) -> Path:
        return self.root / name


def discover(folder: Path) -> Files:
    """List `folder` with all folders below it; InputError for one that cannot be read.

    Left aside with a reason: hidden and system files, archives inside the archive, links that lead out of the
    folder or to another folder, and what is not a file. A folder that is left aside is listed once, not by
    its files.
    """
    names: list[str] = []
    ignored: dict[str, str] = {}
    for name, why in _walk(folder, folder.resolve()):
        if why:
            ignored[name] = why
        else:
            names.append(name)
    return Files(folder, tuple(sorted(names)), dict(sorted(ignored.items())))


def _walk(folder: Path, root: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, reason to ignore it or '') of everything in `folder`."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError.in_dataset(
            f"the folder '{folder}' cannot be read: {error.strerror}. Give read permission, or remove it."
        ) from None
    for entry in entries:
        name = prefix + entry.name
        mode = entry.lstat().st_mode
        if why := _why_ignored(entry, mode, root):
            # Bytes that are no UTF-8 would break every log and report they stand in.
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            yield shown + "/" * stat.S_ISDIR(mode), why
        elif stat.S_ISDIR(mode):
            yield from _walk(entry, root, name + "/")
        else:
            yield name, ""


def why_no_data(name: str) -> str:
    """Why a file or folder of that name is nobody's data, by the name alone; '' for any other."""
    if name == "__MACOSX" or name.startswith("._") or name in MAC_FILES:
        return "macOS metadata"
    if name.startswith("."):
        return "hidden"
    if name.lower() in DESKTOP_FILES:
        return "Windows metadata"
    return ""


def _why_ignored(entry: Path, mode: int, root: Path) -> str:
    name = entry.name
    if why := why_no_data(name):
        return why
    if any(unicodedata.category(character) in ("Cs", "Cc") for character in name):
        return "its name is not valid text: rename it"
    if stat.S_ISLNK(mode):
        if not entry.exists():
            return "a link to nothing"
        if not entry.resolve().is_relative_to(root):
            return "a link that leads out of the folder: put the file itself here"
        if not entry.is_file():
            return "a link to something that is not a file"
    elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "not a file"
    if entry.suffix.lower() in ARCHIVE_SUFFIXES and not stat.S_ISDIR(mode):
        return "an archive inside the archive is not opened: put its files here"
    return ""


def check_unique_names(files: Files, clips: Collection[str] = AUDIO_EXTENSIONS) -> None:
    """Raise one InputError with all files whose names collide.

    "File names must be unique across the archive" (dataset pages), in whatever folder they are. Files with
    one of the suffixes `clips` must differ before it too: `x.wav` and `x.mp3` would share `x.txt`.
    """
    same: defaultdict[tuple[bool, str], list[str]] = defaultdict(list)
    for name in files.names:
        path = PurePosixPath(name)
        is_clip = path.suffix.lower() in clips
        same[is_clip, name_key(path.stem if is_clip else path.name)].append(name)
    collisions = [first_few(names, SHOWN) for names in same.values() if len(names) > 1]
    if collisions:
        raise InputError.in_dataset(
            "file names must be unique across the archive, whatever their folder, letter case or format. "
            f"Rename all but one of: {first_few(collisions, SHOWN, '; ')}."
        )
