"""The parts of uploads that are not complete: `parts/<id>/<number>-<sha256>`."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from sonolora.server.files.incoming import BLOCK_BYTES, HashingWriter, Incoming, UploadError, Written, disk_faults, sync

_MAX_SHOWN = 10  # part numbers in a message


class Parts:
    """Parts arrive in any order and as often as the sender likes; the sha256 of a part is its etag."""

    def __init__(self, folder: Path, incoming: Incoming) -> None:
        self.folder = folder
        self._incoming = incoming

    async def receive(self, id: str, number: int, chunks: AsyncIterable[bytes]) -> str:
        """Store a part of the upload `id`; returns its etag. Raises `UploadError`, and then leaves nothing."""
        others = await run_in_threadpool(self._bytes_of_others, id, number)
        async with self._incoming.receive(id, chunks, taken=others) as part:
            folder = self.folder / id
            folder.mkdir(mode=0o700, exist_ok=True)
            part.path.replace(folder / f"{number}-{part.sha256}")
        return part.sha256

    @contextmanager
    def joined(self, id: str, etags: Mapping[int, str]) -> Iterator[Written]:
        """The parts, given as number to etag, as one file in the order of their numbers.

        Raises `UploadError` when one of them has not arrived. The parts stay until `discard`.
        """
        with disk_faults():
            arrived = self._arrived(id)
            wanted = sorted(etags.items())
            if missing := [str(number) for number, etag in wanted if (number, etag) not in arrived]:
                more = len(missing) - _MAX_SHOWN
                shown = ", ".join(missing[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
                raise UploadError(
                    400, f"not received with the given etags: part {shown}. Send it again, then complete again"
                )
            paths = [arrived[part] for part in wanted]
            self._incoming.check_size(sum(path.stat().st_size for path in paths))
            with self._incoming.temporary(id) as temporary:
                with temporary.open("xb") as file:
                    writer = HashingWriter(file)
                    for path in paths:
                        with path.open("rb") as part:
                            while block := part.read(BLOCK_BYTES):
                                writer.write(block)
                    sync(file)
                yield Written(temporary, writer.size, writer.sha256)

    def last_change(self, id: str) -> float:
        """When a part last arrived, in unix seconds; 0 when there is none."""
        folder = self.folder / id
        return folder.stat().st_mtime if folder.exists() else 0.0

    def discard(self, id: str) -> None:
        shutil.rmtree(self.folder / id, ignore_errors=True)

    def _arrived(self, id: str) -> dict[tuple[int, str], Path]:
        """The parts by number and etag."""
        folder = self.folder / id
        paths = list(folder.iterdir()) if folder.is_dir() else []
        return {(int(number), etag): path for path in paths for number, _, etag in [path.name.partition("-")]}

    @disk_faults()
    def _bytes_of_others(self, id: str, number: int) -> int:
        return sum(path.stat().st_size for (other, _), path in self._arrived(id).items() if other != number)
