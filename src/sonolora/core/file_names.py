"""When two file names count as one."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath


def name_key(name: str) -> str:
    """Two names with the same key are one file on some systems: case and unicode form do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def stem_key(name: str) -> str:
    """The key of a name without folders and extension: what pairs a clip with its caption."""
    return name_key(PurePosixPath(name).stem)
