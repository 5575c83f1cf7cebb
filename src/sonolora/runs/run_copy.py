"""A copy of a run's folder in an object store, so that the run goes on, or its outputs are found, on another machine.

    runs/<id>/attempt-<n>/<name>   what attempt n has made, its states too
    runs/<id>/attempt-<n>.claim    who carries out attempt n

In: a run folder while the run works in it. Out: the folder on another machine, as of the newest state that was copied.
Each attempt writes below its own number, so one that was given up for dead and comes back disturbs no later one, and
one process carries it out: the one that made its claim.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sonolora.core.errors import SonoloraError
from sonolora.core.object_store import ObjectStore, ObjectStoreError
from sonolora.runs.artifacts import PREPARED, RECORD, RunArtifacts, is_state

COPY_SECONDS = 2.0  # between two looks for what is new in the folder
_LAST_TRIES = 3  # to copy what is left at the end, each of which waits for the store as long as any call does
_MARK = ".attempt"  # the file that says which attempt's files a folder holds
_ATTEMPT = re.compile(r"attempt-(\d+)/")
_CLAIM = re.compile(r"attempt-(\d+)\.claim")

logger = logging.getLogger(__name__)


class SupersededError(SonoloraError):
    """Another process carries out this attempt, or a later one."""


class RunCopy:
    """Of one attempt, counted from 1."""

    def __init__(self, objects: ObjectStore, id: str, attempt: int) -> None:
        self._objects, self._attempt = objects, attempt
        self._place = f"runs/{id}"
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of change of what was copied
        self._collected: dict[str, str] = {}  # tags of the objects that were collected
        self._collecting = threading.Lock()

    def claim(self, owner: str) -> bool:
        """Whether `owner`, a text that no other process has, is the one to carry out this attempt.

        Nobody is once a later attempt was claimed.
        """
        begin = f"{self._place}/"
        claims = [_CLAIM.fullmatch(one.name.removeprefix(begin)) for one in self._objects.list(self._place)]
        if any(match and int(match[1]) > self._attempt for match in claims):
            return False
        return self._objects.create(f"{begin}attempt-{self._attempt}.claim", owner.encode())

    def restore(self, folder: Path) -> bool:
        """Put the newest attempt's files into the folder, unless it holds them already. False when there is no run.

        Raises `ObjectStoreError`, and then the folder holds no run.
        """
        folder.mkdir(parents=True, exist_ok=True)
        here, newest = _mark(folder), self._newest()
        if newest is not None and newest > here:
            (folder / RECORD).unlink(missing_ok=True)
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._fetch(newest, folder)
        (folder / _MARK).write_text(str(self._attempt if newest is None else max(newest, here)))
        return RECORD in RunArtifacts(folder)

    def collect(self, folder: Path, *, own: bool = False) -> None:
        """Bring the folder up to what the newest attempt has copied, or this one: for those who look at the run.

        What only the run itself needs, such as its states, is not fetched.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with self._collecting:
            if (attempt := self._attempt if own else self._newest()) is not None:
                self._fetch(attempt, folder, known=self._collected)

    @contextmanager
    def kept(self, folder: Path, owner: str | None = None) -> Iterator[None]:
        """`restore`, and then copy what is made in the folder while the block runs, and what is left at its end.

        With an `owner` nobody else reads the folder: raises `SupersededError` when the claim fails, and
        `ObjectStoreError` when what the block has made cannot be copied.
        """
        if owner is not None and not self.claim(owner):
            raise SupersededError(f"attempt {self._attempt} at this run belongs to another process, or is over")
        self.restore(folder)
        with self._copying(folder):
            yield
        if owner is not None:
            self._put_all(folder)

    def _put_all(self, folder: Path) -> None:
        for left in reversed(range(_LAST_TRIES)):
            try:
                self.put(folder)
                return
            except ObjectStoreError as error:
                if not left:
                    raise
                logger.warning("what the run has made is not copied yet: %s", error)

    @contextmanager
    def _copying(self, folder: Path) -> Iterator[None]:
        ended = threading.Event()

        def copy() -> None:
            while not ended.wait(COPY_SECONDS):
                with _logged():
                    self.put(folder)

        thread = threading.Thread(target=copy, name="run-copy")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with _logged():
                self.put(folder)

    def put(self, folder: Path) -> int:
        """Copy what is new or has changed, and remove what is gone; returns how many files that was.

        States come after what was recorded up to them, and the record, without which there is no run, last.
        """
        found = {}
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if not any(part.startswith(".") for part in name.split("/")):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    if path.is_file():
                        found[name] = stat.st_size, stat.st_mtime_ns
        states = {name for _, name in RunArtifacts(folder).states()}
        new = [name for name, stat in found.items() if self._copied.get(name) != stat]
        gone = self._copied.keys() - found.keys()
        for name in sorted(new, key=lambda name: (name == RECORD, name in states)):
            with suppress(FileNotFoundError):
                self._objects.put(self._name(name), folder / name)
                self._copied[name] = found[name]
        with suppress(FileNotFoundError):  # somebody deletes the folder
            (folder / _MARK).write_text(str(self._attempt))
        for name in gone:
            self._objects.delete(self._name(name))
            del self._copied[name]
        return len(new) + len(gone)

    def _fetch(self, attempt: int, folder: Path, known: dict[str, str] | None = None) -> None:
        """All files of an attempt; with `known`, the tags of what the folder has, those to look at that are new."""
        begin = f"{self._place}/attempt-{attempt}/"
        # The record, which says that the folder holds a run, comes last.
        for one in sorted(self._objects.list(begin.rstrip("/")), key=lambda one: one.name == begin + RECORD):
            name = one.name.removeprefix(begin)
            if known is not None and (is_state(name) or name == PREPARED or known.get(one.name) == one.tag):
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if self._objects.fetch(one.name, folder / name) and known is not None:
                known[one.name] = one.tag

    def _name(self, name: str) -> str:
        return f"{self._place}/attempt-{self._attempt}/{name}"

    def _newest(self) -> int | None:
        """The newest attempt, up to this one, that has left a run."""
        attempts = [
            int(match[1])
            for one in self._objects.list(self._place)
            if (match := _ATTEMPT.match(one.name.removeprefix(f"{self._place}/")))
            and one.name.endswith(f"/attempt-{match[1]}/{RECORD}")
        ]
        return max((number for number in attempts if number <= self._attempt), default=None)


def remove_copies(objects: ObjectStore, id: str) -> None:
    """All that attempts of the run have left."""
    for one in list(objects.list(f"runs/{id}")):
        objects.delete(one.name)


def _mark(folder: Path) -> int:
    """The attempt whose files are in the folder; 0 if that is not known."""
    try:
        return int((folder / _MARK).read_text())
    except (OSError, ValueError):
        return 0


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except ObjectStoreError as error:
        logger.warning("the run is not copied now: %s", error)
