"""Unpacks a .zip archive, treating it as hostile.

In: a file that should be a zip. Out: its files in a new folder, or no folder at all and an error that names the member
at fault. Bytes are counted as they come out, because headers lie. Only stored and deflate are read, which nearly all
tools write: zipfile unpacks a block of bzip2 or LZMA at once, and a few bytes of them can expand to gigabytes.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sonolora.core.atomic_files import require_free, writing
from sonolora.core.errors import InputError
from sonolora.core.file_names import name_key
from sonolora.data.dataset_files import may_be_data, metadata_reason
from sonolora.data.zip_names import member_names

CHUNK_BYTES = 1 << 20
ENCRYPTED = 0x1  # general purpose flag (PKWARE APPNOTE 4.4.4)
READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OTHER_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}
CUT_SHORT = "a zip archive without its end (a broken download or upload, or one part of several)"
SIGNATURES = (  # first bytes, offset, what it looks like
    (b"PK\x03\x04", 0, CUT_SHORT),
    (b"PK\x07\x08", 0, CUT_SHORT),
    (b"\x1f\x8b", 0, "a gzip file, perhaps .tar.gz"),
    (b"ustar", 257, "a tar archive"),
    (b"Rar!\x1a\x07", 0, "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive"),
    (b"BZh", 0, "a bzip2 file"),
    (b"\xfd7zXZ\x00", 0, "an xz file"),
    (b"\x28\xb5\x2f\xfd", 0, "a Zstandard file"),
    (b"RIFF", 0, "a single media file"),
    (b"ftyp", 4, "a single media file"),
    (b"ID3", 0, "a single audio file"),
    (b"fLaC", 0, "a single audio file"),
    (b"OggS", 0, "a single audio file"),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file it stands for"),
)
WEB_PAGE = "a web page (HTML): the link leads to a sign-in, preview or error page, not to the file itself"
TEXTS = (  # first characters after white space, in lower case
    ((b"<!doctype html", b"<html", b"<head", b"<body", b"<script"), WEB_PAGE),
    ((b"<?xml", b"<error"), "an XML document, perhaps an error message of the storage service"),
    ((b"{", b"["), "a JSON document, perhaps an error message of the server"),
)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may unpack to.

    Music deflates to about half, but digital silence to a thousandth: so `max_ratio` applies to the archive as a
    whole, not to a member, and only above `any_ratio_bytes`.
    """

    max_bytes: int = 64 << 30
    max_ratio: int = 200
    any_ratio_bytes: int = 256 << 20
    max_members: int = 100_000
    max_directory_bytes: int = 32 << 20
    max_name_bytes: int = 1024
    max_depth: int = 32


@dataclass(frozen=True)
class _Contents:
    """Members to unpack by safe relative posix path, and why others stay packed."""

    files: Mapping[str, zipfile.ZipInfo]
    ignored: Mapping[str, str]


def unpack(archive: Path, into: Path, *, limits: ArchiveLimits = ArchiveLimits()) -> dict[str, str]:
    """Unpack `archive` into the new folder `into`, which appears when it is complete.

    Returns the members that stay packed, with the reason: they are no data, and cannot be unpacked safely.
    Raises InputError `invalid_archive`; FileExistsError if `into` exists; `OutputError` when the disk has no room.
    """
    if into.exists():
        raise FileExistsError(f"{into} exists already")
    if not zipfile.is_zipfile(archive):
        raise _invalid(
            f"{archive.name} is not a .zip archive: it looks like {_kind_of(archive)}. "
            "Provide one .zip with all the files."
        )
    packed = archive.stat().st_size
    allowed = min(limits.max_bytes, max(limits.any_ratio_bytes, limits.max_ratio * packed))

    def check_size(size: int) -> None:
        if size > allowed:
            raise _invalid(
                f"{archive.name} ({packed:,} bytes) unpacks to more than the {allowed:,} bytes allowed for it. "
                "Make it with fewer or shorter files."
            )

    with _Guarded(archive, limits.max_directory_bytes) as raw:
        with _damage_as(f"the table of contents of {archive.name} is damaged"):
            source = zipfile.ZipFile(raw)
        contents = _checked(source.infolist(), limits)
        declared = sum(member.file_size for member in contents.files.values())
        check_size(declared)
        with writing(into.parent):
            into.parent.mkdir(parents=True, exist_ok=True)
            require_free(into.parent, declared)
            with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as scratch:
                folder = Path(scratch) / "files"
                folder.mkdir()
                size = 0
                for name, member in contents.files.items():
                    with _create(folder, name) as out:
                        for chunk in _content(source, name, member):
                            size += len(chunk)
                            check_size(size)
                            out.write(chunk)
                folder.rename(into)
    return dict(contents.ignored)


def _invalid(msg: str) -> InputError:
    return InputError.in_dataset(msg, type="invalid_archive", supported_extensions=[".zip"])


class _Guarded(io.FileIO):
    """A file that refuses large reads: zipfile reads a table of contents of any length at once."""

    def __init__(self, path: Path, max_read: int) -> None:
        super().__init__(path)
        self.max_read = max_read

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.max_read:
            raise zipfile.BadZipFile(f"{size:,} bytes long, more than {self.max_read:,}")
        return super().read(size)


@contextmanager
def _damage_as(what: str) -> Iterator[None]:
    """Turn everything that zipfile raises for bad bytes into one InputError. Only for code that reads."""
    try:
        yield
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
        *(ValueError, OverflowError, NotImplementedError, RuntimeError, OSError),
    ) as error:
        raise _invalid(f"{what}: {error}. Make the archive again, or download or upload it again.") from error


def _create(folder: Path, name: str) -> io.BufferedWriter:
    file = folder / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        msg = f"'{name}' clashes with another name in the archive: a file cannot be a folder too. Rename one."
        raise _invalid(msg) from None


def _content(source: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with _damage_as(f"'{name}' is damaged in the archive"):
        size = 0
        with source.open(member) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
        if size != member.file_size:
            raise EOFError(f"{size:,} of {member.file_size:,} bytes are there")


def _checked(members: list[zipfile.ZipInfo], limits: ArchiveLimits) -> _Contents:
    """Decide which members are unpacked. Folders are not: they are created for their files.

    A path that leads out of the folder is always an error. Any other fault is one only in what may be data.
    """
    if len(members) > limits.max_members:
        raise _invalid(
            f"the archive holds {len(members):,} files, more than the {limits.max_members:,} allowed. "
            "Make it with fewer files."
        )
    files: dict[str, zipfile.ZipInfo] = {}
    ignored: dict[str, str] = {}
    by_key: dict[str, str] = {}
    for name, member in zip(member_names(members), members, strict=True):
        _require_inside(name)
        is_folder = name.endswith("/")
        path = "/".join(part for part in name.split("/") if part not in ("", "."))
        fault = _name_fault(path, is_folder, limits) or ("" if is_folder else _content_fault(member))
        if not fault and not is_folder and (twin := by_key.get(name_key(path))):
            same = twin == path
            how = "is there twice" if same else f"and '{twin}' differ only by letter case or unicode form"
            fault = f"{how}. Rename or remove one of them."
        if fault and _matters(path):
            raise _invalid(f"'{_printable(path or name)}' {fault}")
        if fault:
            metadata = filter(None, map(metadata_reason, path.split("/")))
            shown = _printable(path or name) + (" (again)" if path in files else "")
            ignored[shown] = next(metadata, f"not unpacked: it {fault}")
        elif not is_folder:
            by_key[name_key(path)] = path
            files[path] = member
    return _Contents(files, ignored)


def _matters(path: str) -> bool:
    """Whether somebody may mean a file of that path as data."""
    parts = path.split("/")
    return not any(map(metadata_reason, parts)) and may_be_data(parts[-1])


def _require_inside(name: str) -> None:
    """Raise for a name that could lead out of the folder."""
    if name.startswith("/") or re.match("[A-Za-z]:/", name):
        why = "has an absolute path"
    elif ".." in name.split("/"):
        why = "has '..' in its path and could leave the folder"
    else:
        return
    raise _invalid(f"'{_printable(name)}' {why}. Rename it and make the archive again.")


def _name_fault(path: str, is_folder: bool, limits: ArchiveLimits) -> str:
    parts = path.split("/")
    if any(unicodedata.category(character) == "Cc" for character in path):
        why = "has a control character in its name"
    elif os.name == "nt" and ":" in path:
        why = "has a ':' in its name, which Windows does not allow"
    elif len(path.encode()) > limits.max_name_bytes or any(len(part.encode()) > 255 for part in parts):
        why = "has too long a name"
    elif len(parts) > limits.max_depth:
        why = f"is more than {limits.max_depth} folders deep"
    elif not path and not is_folder:
        why = "has no name"
    else:
        return ""
    return f"{why}. Rename it and make the archive again."


def _content_fault(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)  # unix mode; 0 from other systems
    if kind == stat.S_IFLNK:
        return "is a symbolic link. Put the file itself into the archive."
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device or another special file. Remove it from the archive."
    if member.flag_bits & ENCRYPTED:
        return "is encrypted. Make the archive again without a password."
    if member.compress_type not in READ_METHODS:
        method = OTHER_METHODS.get(member.compress_type, f"method {member.compress_type}")
        return (
            f"is compressed with {method}, which is not supported. Make the archive again with the method Deflate or "
            "Store, as `zip` and macOS do."
        )
    return ""


def _printable(name: str) -> str:
    return repr(name[:200])[1:-1]


def _kind_of(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(512)
    if not head:
        return "an empty file"
    for signature, offset, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginnings, kind in TEXTS:
        if text.startswith(beginnings):
            return kind
    return f"something else (it begins with the bytes {head[:8].hex(' ')})"
