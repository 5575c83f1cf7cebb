"""A caption file to its text.

In: a `.txt` file. Out: one line of text, and warnings about how it was read.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_SHOWN = 60  # characters
# Of text in Windows-1252 few letters are beyond ASCII; in misread Chinese or Cyrillic nearly all are.
_MAX_BEYOND_ASCII = 0.25
# Zero-width space and no-break space, word joiner, soft hyphen, marks of the direction of writing: pasted from web
# pages, and seen by a tokenizer alone. Joiners stay: scripts and emoji need them.
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u00ad]")
_WEB_PAGE = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)
_JSON_START = re.compile(r"""\s*\{\s*(["'])[^"']*\1\s*:""")


@dataclass(frozen=True)
class Caption:
    """The text of a caption, every run of white space one space; and what is odd about its file."""

    text: str
    warnings: tuple[str, ...] = ()


def read_caption(path: Path) -> Caption:
    """Read UTF-8 with or without a byte-order mark, UTF-16 with one, or Windows-1252 with a warning.

    An empty file is an empty caption with a warning. Raises `ValueError` with the reason and the remedy for anything
    else: a misread caption trains on noise.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(
            f"{size:,} bytes are too many for a caption (limit {MAX_BYTES:,}). Is it another kind of file, named .txt "
            "by mistake?"
        )
    decoded, warnings = decode_text(path.read_bytes())
    refuse_other_formats(decoded)
    text = tidy(decoded)
    if not text:
        invisible = bool(decoded.strip())
        warnings.append("holds only invisible characters, so it is an empty caption" if invisible else "is empty")
    return Caption(text, tuple(warnings))


def tidy(text: str) -> str:
    """Text on one line, without invisible characters."""
    return " ".join(_INVISIBLE.sub("", text).split())


def decode_text(content: bytes) -> tuple[str, list[str]]:
    """The text of a file, and a warning where its encoding is a guess. Raises `ValueError` where there is none."""
    encoding = "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff"), []
    except UnicodeDecodeError as error:
        if encoding == "utf-8" and (text := _windows_1252(content)) is not None:
            shown = tidy(text)
            shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
            return text, [f"is not UTF-8 and was read as Windows-1252: '{shown}'. If that is wrong, save it as UTF-8"]
        raise ValueError(
            f"not valid {encoding.upper()} (byte 0x{content[error.start]:02x} at offset {error.start}). Open it in a "
            "text editor and save it as UTF-8."
        ) from None


def _windows_1252(content: bytes) -> str | None:
    """The text, where it is plausible."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    letters = [character for character in text if not character.isspace()]
    strange = sum(character > "\x7f" for character in letters)
    printable = all(unicodedata.category(character) != "Cc" for character in letters)
    return text if printable and strange <= _MAX_BEYOND_ASCII * len(letters) else None


def refuse_other_formats(text: str) -> None:
    """Raise `ValueError` for what is text but no caption."""
    if text.lstrip().startswith("{\\rtf"):
        raise ValueError(
            "Rich Text (RTF), whose formatting codes would be trained. Save it as plain text; in TextEdit: Format > "
            "Make Plain Text."
        )
    if _WEB_PAGE.match(text):
        raise ValueError("a web page (HTML), whose tags would be trained. Save it as plain text.")
    if text.lstrip().startswith(("{", "[")):
        try:
            is_json = isinstance(json.loads(text), dict | list)
        except (ValueError, RecursionError):
            is_json = _JSON_START.match(text) is not None  # as a person wrote it, with a comma too many
        if is_json:
            raise ValueError("JSON, which would be trained with its brackets and quotes. Write the caption alone.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a character (a lone surrogate). Write the character again.")
    strange = next((c for c in text if unicodedata.category(c) == "Cc" and c not in "\t\n\v\f\r\x85"), None)
    if strange is not None:
        raise ValueError(
            f"holds the control character 0x{ord(strange):02x}, so it is binary or in another encoding. If it is a "
            "caption, save it as UTF-8; if not, give it its own file extension."
        )
