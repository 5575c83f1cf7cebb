"""File names and media types from outside, made harmless; and the addresses of stored files."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

MAX_NAME_BYTES = 160
_MEDIA_TYPE = re.compile(r"[a-z0-9][\w.+-]{0,60}/[a-z0-9][\w.+-]{0,60}", re.ASCII)
# Types that a browser may display in place; anything else, which may contain a program, it can only save. No '+': a
# browser treats whatever ends in +xml as a page.
_DISPLAYED = re.compile(r"(audio|video)/[\w.-]+|image/(png|jpeg|gif|webp|avif)|text/plain|application/json", re.ASCII)
_SAVED = frozenset({"application/zip", "application/gzip", "application/x-tar"})
_ADDRESS = re.compile(r"(?:/cdn)?/files/([^/]+)/[^/]+")


def safe_name(name: str) -> str:
    """The name as any disk, header and URL can hold it: still readable, never a path.

    Folders are removed, and characters that are no text (controls, bidirectional overrides, lone surrogates). Those
    that some file system refuses become '_'. A name that is too long is cut before its suffix.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name).rstrip("/\\"))[-1]
    text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in last)
    text = re.sub(r'[<>:"|?*]', "_", text).strip(" .")
    if len(text.encode()) > MAX_NAME_BYTES:
        suffix = Path(text).suffix if len(Path(text).suffix.encode()) <= 20 else ""
        stem = text.encode()[: MAX_NAME_BYTES - len(suffix.encode())].decode(errors="ignore")
        text = stem.rstrip(" .") + suffix
    return text or "file"


def media_type(content_type: str) -> str:
    """The type and subtype without parameters; `application/octet-stream` for what is not a media type."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence if _MEDIA_TYPE.fullmatch(essence) else "application/octet-stream"


def disposition(content_type: str) -> tuple[str, str]:
    """How a browser treats a download, `inline` or `attachment`, and the media type that it is told."""
    displayed = _DISPLAYED.fullmatch(content_type) is not None
    known = displayed or content_type in _SAVED
    return "inline" if displayed else "attachment", content_type if known else "application/octet-stream"


def file_id(url: str) -> str | None:
    """The id in a URL that has the form of a stored file's address, whatever its host; None for any other URL."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return None
    try:
        address = _ADDRESS.fullmatch(urlsplit(url).path)
    except ValueError:
        return None
    return address[1] if address else None
