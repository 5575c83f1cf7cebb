"""The files of an unpacked archive, or of a folder given by the user.

In: a folder. Out: the names of the files that count, and of the others with the reason why they do not.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sonolora.core.errors import InputError
from sonolora.media.audio import AUDIO_EXTENSIONS
from sonolora.media.video import VIDEO_EXTENSIONS

ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz")
MAC_FILES = (".DS_Store", "Icon\r")
DESKTOP_FILES = ("thumbs.db", "desktop.ini")
_RESULTS = ("report.json", "report.html")  # what every folder has that a check or a run has written
_TEXT_EXTENSIONS = (".txt", ".json", ".jsonl", ".csv")


@dataclass(frozen=True)
class Files:
    """`names` and the keys of `ignored` are posix paths relative to `root`, sorted; a folder ends in '/'."""

    root: Path
    names: tuple[str, ...]
    ignored: Mapping[str, str]

    def path(self, name: str) -> Path:
        return self.root / name


def discover(folder: Path, not_unpacked: Mapping[str, str] | None = None) -> Files:
    """List `folder` with all folders below it; `not_unpacked` adds ignored names. InputError if it cannot be read.

    Ignored with a reason: hidden and system files, archives inside the archive, links that lead out of the folder or
    to another folder, folders of a check or a run, and whatever is not a file. An ignored folder is listed once, not by
    its files.
    """
    names: list[str] = []
    ignored = dict(not_unpacked or {})
    for name, reason in _walk(folder, folder.resolve()):
        if reason:
            ignored[name] = reason
        else:
            names.append(name)
            ignored.pop(name, None)
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
        if reason := _reason_to_ignore(entry, mode, root):
            # Bytes that are not UTF-8 would break every log and report that shows them.
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            yield shown + "/" * stat.S_ISDIR(mode), reason
        elif stat.S_ISDIR(mode):
            yield from _walk(entry, root, name + "/")
        else:
            yield name, ""


def metadata_reason(name: str) -> str:
    """Why a file or folder of that name is not data, by the name alone; '' for any other."""
    if name == "__MACOSX" or name.startswith("._") or name in MAC_FILES:
        return "macOS metadata"
    if name.startswith("."):
        return "hidden"
    if name.lower() in DESKTOP_FILES:
        return "Windows metadata"
    return ""


def may_be_data(name: str) -> bool:
    """Whether some mode reads files with that extension."""
    return PurePosixPath(name).suffix.lower() in (*AUDIO_EXTENSIONS, *VIDEO_EXTENSIONS, *_TEXT_EXTENSIONS)


def _reason_to_ignore(entry: Path, mode: int, root: Path) -> str:
    name = entry.name
    if reason := metadata_reason(name):
        return reason
    if any(unicodedata.category(character) in ("Cs", "Cc") for character in name):
        return "its name is not valid text: rename it"
    if stat.S_ISLNK(mode):
        if not entry.exists():
            return "a broken link"
        if not entry.resolve().is_relative_to(root):
            return "a link that leads out of the folder: put the file itself here"
        if not entry.is_file():
            return "a link to something that is not a file"
    elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "not a file"
    if entry.suffix.lower() in ARCHIVE_SUFFIXES and not stat.S_ISDIR(mode):
        return "an archive inside the archive is not opened: put its files here"
    if stat.S_ISDIR(mode) and all((entry / name).is_file() for name in _RESULTS):
        return "results of an earlier check or run, not data"
    return ""
