"""The file of a LoRA, from an address or from the Hugging Face hub.

In: a URL, a data: URI, or an id such as `owner/name`, `owner/name/file.safetensors` or `owner/name@revision`. Out: the
path of a file on this machine; what comes from the hub stays in Hugging Face's own cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from sonolora.core.errors import InputError, first_few
from sonolora.data.fetch import ADVICE, ANYWHERE, FetchLimits, Sources, fetch

MAX_BYTES = 3 << 30  # as published
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w./-]+\.safetensors))?(?:@([\w.-]+))?", re.ASCII)
_SHOWN = 10


def is_hub_id(text: str) -> bool:
    """Whether it has the form of an id on the hub."""
    return _HUB_ID.fullmatch(text) is not None and ".." not in text


def weight_name_fault(source: str, weight_name: str | None) -> str | None:
    """Why a `weight_name` cannot choose a file of this source; None if it can, or there is none."""
    match = _HUB_ID.fullmatch(source) if is_hub_id(source) else None
    named = match[2] if match else urlsplit(source).path.rpartition("/")[2]
    if not weight_name or (match and named is None) or weight_name == named:
        return None
    if match:
        return f"chooses {weight_name}, but the path names {named} already; send one of them"
    return "chooses a file of a Hugging Face repository, and this path is a file: leave it out"


def fetch_lora(
    source: str, into: Path, *, weight_name: str | None = None, field: str = "lora", sources: Sources = ANYWHERE
) -> Path:
    """The local path of the LoRA at an address or in a repository, where `weight_name` chooses one of several files.

    `into`: a folder for downloads. Raises `InputError` for `field`, with the type `file_download_error` when it cannot
    be had and `file_too_large` above 3 GiB.
    """
    if source not in sources.known and is_hub_id(source):
        return _from_hub(source, weight_name or None, field)
    return fetch(source, into, field=field, sources=sources, limits=FetchLimits(max_bytes=MAX_BYTES))


def _from_hub(source: str, weight_name: str | None, field: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx in 1.x, httpx2 in 2.x

    match = _HUB_ID.fullmatch(source)
    assert match is not None
    repository, file, revision = match[1], weight_name or match[2], match[3]
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
        name = _choose(repository, file, [name for name in sizes if name.endswith(".safetensors")], field)
        if sizes[name] > MAX_BYTES:
            msg = f"{repository}/{name} has {sizes[name]:,} bytes, more than the {MAX_BYTES:,} allowed."
            raise InputError.of(field, msg, "file_too_large", max_size=MAX_BYTES)
        return Path(hf_hub_download(repository, name, revision=info.sha, endpoint=endpoint))
    except (OSError, ValueError, HTTPError) as error:
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = getattr(response, "status_code", None)
        why = f"answered with {status}" if status else f"cannot be reached ({type(error).__name__})"
        advice = {**ADVICE, 401: "Check the id; a private repository needs a token of this server."}.get(
            status or 0, ""
        )
        raise InputError.of(field, f"{repository}: the hub {why}. {advice}".strip(), "file_download_error") from None


def _choose(repository: str, wanted: str | None, files: list[str], field: str) -> str:
    if wanted is not None and wanted in files:
        return wanted
    if wanted is None and len(files) == 1:
        return files[0]
    there = first_few(files, _SHOWN) or "no .safetensors file"
    why = "choose one of its files with weight_name" if wanted is None else f"it has no {wanted}"
    raise InputError.of(field, f"{repository}: {why}; there are: {there}.", "file_download_error")
