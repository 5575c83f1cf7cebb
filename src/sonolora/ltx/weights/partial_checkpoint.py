"""A partial checkpoint: a safetensors file with some tensors of a larger one, extended when more are needed.

In: the tensor table of the whole file, and a function that reads its bytes from wherever it is. Out: a local file that
any safetensors reader accepts; only the bytes of its tensors were transferred. An unfinished transfer never appears
under the file's own name, and resumes where it stopped.

Sidecar files of FILE: FILE.sha256 (the checksum of each tensor as received) and FILE.lock; during a transfer also a
`PartialFile`, whose journal lists the completed ranges.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from sonolora.core.atomic_files import PartialFile, write_json
from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import TensorInfo, lay_out
from sonolora.ltx.weights.checkpoint import Checkpoint

Progress = Callable[[int, int], None]  # bytes so far, bytes in total
Read = Callable[[int, int], Iterator[bytes]]  # the bytes [start, end) in blocks
WORKERS = 8
_SPAN_BYTES = 32 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Span:
    """Bytes [start, end) of the source, written at offset `to`."""

    start: int
    end: int
    to: int


def sidecar(path: Path, ending: str) -> Path:
    """A file that belongs to the partial checkpoint at `path`."""
    return path.with_name(f"{path.name}.{ending}")


def open_excerpt(path: Path) -> Checkpoint | None:
    """The partial checkpoint as it is now, or None if there is none yet."""
    return Checkpoint.open(path) if path.exists() else None


def extend(
    path: Path,
    whole: Mapping[str, TensorInfo],
    names: Collection[str],
    metadata: Mapping[str, str],
    read: Read,
    progress: Progress | None = None,
) -> None:
    """Make the partial checkpoint at `path` hold at least these tensors of the `whole` file.

    Present tensors are copied, missing ones come from `read`; then the file is replaced atomically, so readers are not
    disturbed. One process transfers, others wait and find the tensors there. Raises `CheckpointError` when the disk is
    full or a stored tensor is corrupt. Errors of `read` propagate; the bytes received so far are kept for the next try.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(sidecar(path, "lock")):
        old = Checkpoint.open(path, as_stored=True) if path.exists() else None
        if old is not None:
            names = old.tensors.keys() | set(names)
        if old is None or names != old.tensors.keys():
            header, offsets = layout(whole, names, metadata)
            have = {name: to for name, to in offsets.items() if old and name in old.tensors}
            lack = {name: to for name, to in offsets.items() if name not in have}
            work: list[tuple[Span, Read]] = []
            work += [(span, partial(_read_file, path)) for span in spans(old.tensors if old else {}, have)]
            work += [(span, read) for span in spans(whole, lack)]
            partial_file = PartialFile(path)
            _Transfer(partial_file, header, work, progress).run()
            _seal(partial_file)


def layout(
    whole: Mapping[str, TensorInfo], names: Collection[str], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The header bytes of a file with just these tensors, and the offset of each.

    Tensors keep the order of the source, float32 first, so contiguous ranges there stay contiguous here.
    """
    order = sorted(names, key=lambda name: (whole[name].dtype != "F32", whole[name].start))
    infos = ((name, whole[name]) for name in order)
    return lay_out(((name, info.dtype, info.shape, info.end - info.start) for name, info in infos), metadata)


def spans(source: Mapping[str, TensorInfo], offsets: Mapping[str, int], max_bytes: int = _SPAN_BYTES) -> list[Span]:
    """The fewest spans of at most `max_bytes` that move each tensor to its offset, and no other bytes."""
    runs: list[Span] = []
    for name in sorted(offsets, key=lambda name: source[name].start):
        info, to = source[name], offsets[name]
        last = runs[-1] if runs else None
        if last and (last.end, last.to + last.end - last.start) == (info.start, to):
            runs[-1] = Span(last.start, info.end, last.to)
        elif info.end > info.start:
            runs.append(Span(info.start, info.end, to))
    return [
        Span(start, min(start + max_bytes, run.end), run.to + start - run.start)
        for run in runs
        for start in range(run.start, run.end, max_bytes)
    ]


def damaged_tensors(path: Path) -> list[str]:
    """The tensors of a partial checkpoint whose checksum differs from that of the bytes received."""
    sums = _kept_sums(path)
    return [name for name, digest in _sums(Checkpoint.open(path, as_stored=True)).items() if sums.get(name) != digest]


class _Transfer:
    """Fills a file with several threads; after a failure, the next run skips the completed spans."""

    def __init__(
        self, file: PartialFile, header: bytes, work: Collection[tuple[Span, Read]], progress: Progress | None
    ) -> None:
        self.file, self.header = file, header
        self.work, self.progress = work, progress
        self.total = sum(span.end - span.start for span, _ in work)
        self.size = len(header) + self.total
        self._stop, self._lock, self._bytes = threading.Event(), threading.Lock(), 0

    def run(self) -> None:
        mark = sha256(self.header).hexdigest()
        filled = self._filled(mark)
        if not filled:
            self._begin(mark)
        self._advance(sum(span.end - span.start for span, _ in self.work if span.to in filled))
        with ThreadPoolExecutor(WORKERS) as pool:
            tasks = [pool.submit(self._fill, span, read) for span, read in self.work if span.to not in filled]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _filled(self, mark: str) -> set[int]:
        """The spans that earlier runs completed, if they were filling this same file."""
        identity, offsets = self.file.resume()
        return {int(offset) for offset in offsets} if identity == mark and self.file.size == self.size else set()

    def _begin(self, mark: str) -> None:
        folder = self.file.path.parent
        self.file.discard()
        if (free := shutil.disk_usage(folder).free) < self.size:
            raise CheckpointError(
                f"{folder}: {self.size / 1e9:.1f} GB are needed here, {free / 1e9:.1f} GB are free. "
                "Free some space, or set SONOLORA_MODELS to a folder on another disk"
            )
        self.file.begin(mark)
        with self.file.part.open("wb") as file:
            file.write(self.header)
            file.truncate(self.size)

    def _fill(self, span: Span, read: Read) -> None:
        with self.file.part.open("r+b") as file:
            file.seek(span.to)
            for block in read(span.start, span.end):
                if self._stop.is_set():
                    return
                file.write(block)
                self._advance(len(block))
            file.flush()
            os.fsync(file.fileno())  # a span marked as done must survive a power failure
        with self._lock:
            self.file.note(str(span.to))

    def _advance(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            if self.progress:
                self.progress(self._bytes, self.total)


def _seal(file: PartialFile) -> None:
    """Check the copied tensors against their checksums, store all checksums, and move the file into place."""
    path = file.path
    before, sums = _kept_sums(path) if path.exists() else {}, _sums(Checkpoint.open(file.part, as_stored=True))
    # A crash between the last two lines leaves checksums of tensors that are not in the file.
    if wrong := [name for name, digest in before.items() if sums.get(name, digest) != digest]:
        file.discard()
        for damaged_file in (path, sidecar(path, "sha256")):
            damaged_file.unlink()
        raise CheckpointError(f"{path}: its tensor {wrong[0]} was corrupt on disk. The file is removed; start again")
    write_json(sidecar(path, "sha256"), sums)
    file.finish()


def _kept_sums(path: Path) -> dict[str, str]:
    try:
        sums: dict[str, str] = json.loads(sidecar(path, "sha256").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the checksums cannot be read; remove the file and start again") from error
    return sums


def _sums(checkpoint: Checkpoint) -> dict[str, str]:
    def digest(info: TensorInfo) -> str:
        found = sha256()
        for block in _read_file(checkpoint.path, info.start, info.end):
            found.update(block)
        return found.hexdigest()

    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(checkpoint.tensors, pool.map(digest, checkpoint.tensors.values()), strict=True))


def _read_file(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (block := file.read(min(_BLOCK_BYTES, end - start))):
            start += len(block)
            yield block
