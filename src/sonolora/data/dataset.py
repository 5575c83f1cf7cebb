"""From an address to the files of a dataset: fetch, unpack, list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from sonolora.core.download import Progress as DownloadProgress
from sonolora.data.archive import unpack
from sonolora.data.dataset_files import Files, discover
from sonolora.data.fetch import ANYWHERE, Sources, fetch
from sonolora.modes.preview_spec import PreviewSpec


def open_dataset(
    address: str,
    scratch: Path,
    sources: Sources = ANYWHERE,
    progress: DownloadProgress | None = None,
    warn: Callable[[str], None] | None = None,
) -> Files:
    """The files behind a URL, a zip or a folder. A folder is used in place, anything else goes to `scratch`.

    `progress` and `warn` follow a download, as in `fetch`. Raises `InputError` when it cannot be fetched or unpacked.
    """
    source = fetch(address, scratch, sources=sources, progress=progress, warn=warn)
    if source.is_dir():
        return discover(source)
    root = scratch / "files"
    return discover(root, unpack(source, root))


def fetch_preview_inputs(specs: Iterable[PreviewSpec], scratch: Path, sources: Sources = ANYWHERE) -> dict[str, Path]:
    """The input files of previews by the request field of their address. What is in `scratch` is not fetched again.

    Raises `InputError` as `fetch` does.
    """
    return {
        spec.field: fetch(spec.address, scratch, field=spec.field, sources=sources) for spec in specs if spec.address
    }
