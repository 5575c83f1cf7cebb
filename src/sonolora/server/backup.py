"""A copy of everything that a server must not lose, made while it runs, and a server's folder made from the copy.

    backup(server's folder, copy)    restore(copy, server's folder)

In the copy: the database as of one moment, each file that it knows, compared with its checksum, the datasets that are
edited on the page, what signs webhooks and uploads, the certificates of our own authority, `server.toml`, and
`backup.json`, which says what it is. Not in it: run folders (a request that was running starts anew) and uploads that
were not complete. Both ways nothing is there before all of it is: copy and restored folder get their names last.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sonolora import __version__
from sonolora.core.atomic_files import make_folder, write_json, writing
from sonolora.core.errors import SonoloraError
from sonolora.server.database.faults import StoreError, faults_in_words
from sonolora.server.database.identity import identity_file, open_read_only
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.incoming import BLOCK_BYTES, HashingWriter, sync
from sonolora.server.folder_lock import single_instance
from sonolora.server.settings import load_settings

DATABASE, MANIFEST, CONTENT = "server.db", "backup.json", Path("files", "content")
# Beside the database and the files. All of it can be missing.
_KEPT = (Path("server.toml"), Path("webhook_key.pem"), Path("files", "secret"), Path("tls"))
_DATASETS = Path("datasets")
_ATTEMPTS = 3  # to find in place a file that changes while it is copied
_MAX_SHOWN = 5
_FILES = "SELECT id, name, size, sha256, mtime_ns FROM files WHERE complete"


@dataclass(frozen=True)
class Summary:
    requests: int
    files: int
    bytes: int  # of the files
    missing: tuple[str, ...]  # files that the server has lost, or that were changed on its disk


@dataclass(frozen=True)
class _Content:
    """A stored file as the database knows it."""

    id: str
    name: str
    size: int
    sha256: str | None
    mtime_ns: int | None

    @property
    def path(self) -> Path:
        """In a server's folder or a copy of it."""
        return CONTENT / self.id / self.name


def backup(folder: Path, copy: Path, report: Callable[[str], None] = lambda _: None) -> Summary:
    """Copy the server in `folder`, which may be running, to `copy`, which must not exist yet.

    Files that are missing or damaged on the server's disk are skipped and named in the summary. Raises
    `SonoloraError` for everything else, and then there is no copy.
    """
    settings = load_settings(folder)
    if settings.database is not None:
        raise SonoloraError(
            "the queue is in PostgreSQL, which makes its own backups: pg_dump, and for the rest see docs/backup.md"
        )
    if settings.files is not None:
        raise SonoloraError(
            "the files are in an object store, which this command does not copy: see docs/backup.md for what to copy"
        )
    database = folder / DATABASE
    if not database.exists():
        raise SonoloraError(f"there is no server in {folder}: give its --folder")
    if copy.exists():
        raise SonoloraError(f"{copy} exists already: give the name of a new folder")
    SqliteDatabase(database).close()  # checks and, if it is of an older version, migrates it
    make_folder(copy.parent)
    with _made_as_a_whole(copy) as part:
        for name in _KEPT:
            _copy_kept(folder / name, part / name)
        _copy_datasets(folder / _DATASETS, part / _DATASETS)
        copied = dict[str, _Content]()
        for attempt in range(_ATTEMPTS):  # files come and go meanwhile
            _copy_database(database, part / DATABASE)
            requests, contents = _read(part / DATABASE)
            if not attempt:
                _check_space(copy.parent, sum(content.size for content in contents))
                report(f"{requests} requests, {len(contents)} files")
            for id in copied.keys() - {content.id for content in contents}:
                shutil.rmtree(part / CONTENT / id)
                del copied[id]
            missing = []
            for content in contents:
                if copied.get(content.id) != content:
                    if _copy_content(folder / content.path, part / content.path, content):
                        copied[content.id] = content
                    else:
                        missing.append(str(content.path))
            if not missing:
                break
        summary = Summary(requests, len(copied), sum(content.size for content in copied.values()), tuple(missing))
        write_json(
            part / MANIFEST,
            {
                "sonolora_version": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "requests": summary.requests,
                "files": summary.files,
                "bytes": summary.bytes,
                "missing": list(missing),
            },
        )
    return summary


def restore(copy: Path, folder: Path, report: Callable[[str], None] = lambda _: None) -> Summary:
    """Make `folder`, in which there is no server, that of the copy.

    Raises `SonoloraError` for a copy that is damaged or not complete, and then nothing is changed.
    """
    manifest = _read_manifest(copy)
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with single_instance(folder):
        for name in (DATABASE, f"{DATABASE}-wal", identity_file(folder / DATABASE).name, "files"):
            if (folder / name).exists():
                raise SonoloraError(f"{folder} holds a server already: move {name} and what belongs to it away first")
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=folder) as name:
            part = Path(name)
            _copy_database(copy / DATABASE, part / DATABASE)
            try:
                SqliteDatabase(part / DATABASE, thorough=True).close()  # also migrates it
                requests, contents = _read(part / DATABASE)
            except StoreError as error:
                raise SonoloraError(f"{copy / DATABASE}: {error.reason}. Take another copy") from error
            report(f"{requests} requests, {len(contents)} files")
            _check_space(folder, sum(content.size for content in contents))
            for subfolder in (CONTENT.parent, CONTENT):
                (part / subfolder).mkdir(mode=0o700)
            damaged = [
                str(content.path)
                for content in contents
                if not _copy_content(copy / content.path, part / content.path, content)
            ]
            if unexpected := sorted(set(damaged) - set(manifest.get("missing", ()))):
                raise SonoloraError(f"the copy is not complete: missing or damaged are {_shown(unexpected)}")
            for kept in (*_KEPT, _DATASETS):
                if not (folder / kept).exists():
                    _copy_kept(copy / kept, part / kept)
            with writing(folder):
                # The database last: without it a server does not start where there are files.
                for path in sorted(part.iterdir(), key=lambda path: path.name == DATABASE):
                    path.replace(folder / path.name)
    restored = [content for content in contents if str(content.path) not in damaged]
    return Summary(requests, len(restored), sum(content.size for content in restored), tuple(damaged))


def _read(database: Path) -> tuple[int, list[_Content]]:
    """The number of requests, and the complete files."""
    with faults_in_words(database), closing(open_read_only(database)) as connection:
        ((requests,),) = connection.execute("SELECT count(*) FROM requests")
        return requests, [_Content(*row) for row in connection.execute(_FILES)]


def _read_manifest(copy: Path) -> Mapping[str, Sequence[str]]:
    try:
        manifest = json.loads((copy / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise SonoloraError(f"{copy} is no backup of a server: there is no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise SonoloraError(f"{copy / MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise SonoloraError(f"{copy / MANIFEST} is damaged: it holds no object")
    return manifest


def _copy_database(source: Path, target: Path) -> None:
    """As of one moment, into a single file without a log; those who write to it meanwhile do not wait."""
    target.unlink(missing_ok=True)
    with (
        faults_in_words(target),
        closing(open_read_only(source)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode = DELETE")
    target.chmod(0o600)


def _copy_content(source: Path, target: Path, content: _Content) -> bool:
    """False when it is missing or is not what the database says."""
    same = False
    with writing(target.parent):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(_UnreadableError), target.open("wb") as file:
            writer = HashingWriter(file)
            for block in _blocks(source):
                writer.write(block)
            sync(file)
            same = (writer.size, writer.sha256) == (content.size, content.sha256)
        if not same:
            shutil.rmtree(target.parent)
        elif content.mtime_ns is not None:
            os.utime(target, ns=(content.mtime_ns, content.mtime_ns))
    return same


class _UnreadableError(Exception):
    """A file cannot be read, to its end or at all."""


def _blocks(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise _UnreadableError from error


def _copy_kept(source: Path, target: Path) -> None:
    with writing(target.parent):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy2(source, target)


def _copy_datasets(source: Path, target: Path) -> None:
    """Without what is being uploaded. A file that is removed meanwhile is not in the copy."""

    def copy(name: str, to: str) -> None:
        with suppress(FileNotFoundError):
            shutil.copy2(name, to)

    if source.is_dir():
        with writing(target.parent):
            for dataset in sorted(source.iterdir()):
                incoming = shutil.ignore_patterns("incoming", ".*.part*")
                shutil.copytree(dataset, target / dataset.name, ignore=incoming, copy_function=copy)
                (target / dataset.name / "incoming").mkdir(exist_ok=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SonoloraError(f"{folder} has {free / 1e9:.1f} GB free, and the files are {needed / 1e9:.1f} GB")


@contextmanager
def _made_as_a_whole(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which becomes `path` when the block ends well and is removed when not."""
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield part
        with writing(path):
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _MAX_SHOWN
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
