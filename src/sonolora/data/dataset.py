"""From an address to the files of a dataset: fetched, unpacked, listed."""

from __future__ import annotations

from pathlib import Path

from sonolora.data.archive import unpack
from sonolora.data.fetch import fetch
from sonolora.data.files import Files, discover


def open_dataset(address: str, scratch: Path) -> Files:
    """The files behind a URL, a zip or a folder. A folder is used where it lies, the rest in `scratch`.

    Raises `InputError` when it cannot be fetched or unpacked.
    """
    source = fetch(address, scratch)
    if source.is_dir():
        return discover(source)
    root = scratch / "files"
    unpack(source, root)
    return discover(root)
