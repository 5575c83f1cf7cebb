"""From an address to the files of a dataset: fetched, unpacked, listed."""

from __future__ import annotations

from pathlib import Path

from sonolora.core.download import Progress as DownloadProgress
from sonolora.data.archive import unpack
from sonolora.data.dataset_files import Files, discover
from sonolora.data.fetch import ANYWHERE, Sources, fetch


def open_dataset(
    address: str, scratch: Path, sources: Sources = ANYWHERE, progress: DownloadProgress | None = None
) -> Files:
    """The files behind a URL, a zip or a folder. A folder is used where it lies, the rest in `scratch`.

    `progress` is that of a download. Raises `InputError` when it cannot be fetched or unpacked.
    """
    source = fetch(address, scratch, sources=sources, progress=progress)
    if source.is_dir():
        return discover(source)
    root = scratch / "files"
    unpack(source, root)
    return discover(root)
