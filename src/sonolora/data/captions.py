"""A caption file to its text.

In: a `.txt` file. Out: one line of text, and a warning when there is none.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from sonolora.core.errors import InputError

MAX_BYTES = 1 << 20
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_caption(path: Path) -> tuple[str, str | None]:
    """(caption with every run of white space as one space, warning or None).

    UTF-8 with or without a byte-order mark, or UTF-16 with one. An empty file gives "" and a warning. Raises
    InputError for another encoding, and for what is not text at all: a wrongly read caption trains on noise.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError.in_dataset(
            f"{path.name}: {size:,} bytes are too many for a caption (limit {MAX_BYTES:,}). "
            "Is it another kind of file, named .txt by mistake?"
        )
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith(UTF16_MARKS) else "utf-8"
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError.in_dataset(
            f"{path.name}: not valid {encoding.upper()} (byte 0x{content[error.start]:02x} at offset "
            f"{error.start}). Open it in a text editor and save it as UTF-8."
        ) from None
    strange = next((c for c in text if c < " " and c not in "\t\n\v\f\r"), None)
    if strange is not None:
        raise InputError.in_dataset(
            f"{path.name}: holds the control character 0x{ord(strange):02x}, so it is binary or in another "
            "encoding. If it is a caption, save it as UTF-8; if not, give it its own file extension."
        )
    text = " ".join(text.split())
    return text, None if text else f"{path.name} is empty"
