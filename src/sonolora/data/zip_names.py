"""The names in a zip archive as their author meant them.

In: the members of an archive. Out: a name for each, with `/` between folders. In this order: the UTF-8 flag, the
Unicode Path field of Info-ZIP, bytes that are UTF-8 (macOS sets no flag), and else the one legacy encoding that
explains the names of the whole archive best. Windows writes names in the encoding of its language and says nowhere
which.

Whatever the guess, different names stay different in the sense of `name_key`, so that clips keep their own captions.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from zlib import crc32

from sonolora.core.file_names import name_key

_IS_UTF8 = 0x800  # general purpose flag (PKWARE APPNOTE 4.4.4)
_UNICODE_PATH = 0x7075  # extra field: version 1, CRC-32 of the plain name, the name in UTF-8 (APPNOTE 4.6.9)
_SAMPLED_NAMES = 500
_UNLIKELY = 8.0  # natural logarithm
_LEGACY_ENCODINGS = ("cp932", "cp936", "cp949", "cp950", "cp437", "cp850", "cp1252", "cp866", "cp1251")


def member_names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """A name for each member. They are not safe as paths yet."""
    names = [_declared_name(member) for member in members]
    legacy = [_stored_bytes(member) for member, name in zip(members, names, strict=True) if name is None]
    guessed = iter(_decoded(legacy))
    # PowerShell 5.1 and old versions of .NET write backslashes. In a legacy encoding such a byte may also be half of a
    # character, which the decoding has settled by now.
    return [(next(guessed) if name is None else name).replace("\\", "/") for name in names]


def _declared_name(member: zipfile.ZipInfo) -> str | None:
    """The name where the archive says how it is encoded, or where that is beyond doubt."""
    if member.flag_bits & _IS_UTF8:
        return member.orig_filename
    stored = _stored_bytes(member)
    if (name := _unicode_path(member.extra, stored)) is not None:
        return name
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return None


def _stored_bytes(member: zipfile.ZipInfo) -> bytes:
    return member.orig_filename.encode("cp437")  # as which zipfile decodes every name without the flag


def _unicode_path(extra: bytes, stored: bytes) -> str | None:
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            (checksum,) = struct.unpack_from("<I", field, 1)
            if checksum == crc32(stored):  # else the name was changed by a tool that does not know the field
                with suppress(UnicodeDecodeError):
                    return field[5:].decode()
    return None


def _decoded(names: Sequence[bytes]) -> list[str]:
    """The names of one archive in the likeliest encoding in which they stay different."""
    ranked = []
    for encoding in _LEGACY_ENCODINGS:
        try:
            texts = [name.decode(encoding) for name in names]
        except UnicodeDecodeError:
            continue
        likelihood = sum(_log_likelihood(text, encoding) for text in texts[:_SAMPLED_NAMES])
        ranked.append((likelihood, texts))
    for _, texts in sorted(ranked, key=lambda entry: -entry[0]):
        # Equal names, and ASCII names that differ by letter case alone, are a clash in any encoding.
        if len({name_key(text) for text in texts}) == len({_ascii_lower(text) for text in texts}):
            return texts
    return [_escaped(name) for name in names]


def _ascii_lower(text: str) -> str:
    return re.sub("[A-Z]+", lambda match: match[0].lower(), text)


def _log_likelihood(text: str, encoding: str) -> float:
    """How likely the characters beyond ASCII are in a name of that encoding: natural logarithm, a rough model."""
    total = 0.0
    for index, character in enumerate(text):
        if character.isascii():
            continue
        code = character.encode(encoding)
        share, size = _class_of(character, code, encoding)
        total += math.log(share / size)
        # Cyrillic words have no Latin letters in them; accented letters, of which there are far fewer, do.
        if encoding in ("cp866", "cp1251") and re.search("[A-Za-z]", text[max(index - 1, 0) : index + 2]):
            total -= _UNLIKELY
        if character.isupper() and text[index - 1 : index].islower():  # a capital inside a word
            total -= _UNLIKELY
        # After a single letter these are rather the second half of a character.
        if len(code) == 1 and re.match(r"[A-Z@^`{|}~\\]" if character.islower() else r"\\", text[index + 1 :]):
            total -= _UNLIKELY
    return total


def _class_of(character: str, code: bytes, encoding: str) -> tuple[float, int]:
    """(share of the characters beyond ASCII, number of different ones) of the class that a character is of."""
    lead = code[0]
    match encoding:
        case "cp932":
            if "\u3041" <= character <= "\u30ff":
                return 0.6, 170  # kana
            return (0.35, 2965) if len(code) == 2 and 0x88 <= lead <= 0x97 else (0.05, 7000)  # level 1: common kanji
        case "cp936":
            return (0.95, 3755) if 0xB0 <= lead <= 0xD7 and code[1] >= 0xA1 else (0.05, 20000)  # level 1
        case "cp949":
            return (0.95, 2350) if 0xB0 <= lead <= 0xC8 and code[1] >= 0xA1 else (0.05, 15000)  # syllables of KS X 1001
        case "cp950":
            return (0.95, 5401) if 0xA4 <= lead <= 0xC6 else (0.05, 8000)  # level 1
        case "cp866" | "cp1251":
            return (0.95, 64) if "\u0410" <= character <= "\u044f" else (0.01, 60)
        case _:
            return (0.05, 60) if character.isalpha() and "\u00c0" <= character <= "\u00ff" else (0.005, 60)


def _escaped(name: bytes) -> str:
    """Bytes beyond ASCII as %XX. A backslash behind one of them may be the second half of a character: escaped, too."""
    return re.sub(rb"[\x80-\xff]\\?", lambda match: b"%" + match[0].hex("%").encode(), name).decode("ascii")
