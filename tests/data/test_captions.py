"""read_caption: the encodings that are read, and the ones that are refused with a place and a cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonolora.core.errors import InputError
from sonolora.data.captions import MAX_BYTES, read_caption

TEXT = "f0leyvox Regen auf dem Dächlein, 雨 🌧"


def caption(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "clip01.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    assert read_caption(caption(tmp_path, TEXT.encode(encoding))) == (TEXT, None)


def test_utf16_big_endian(tmp_path: Path) -> None:
    assert read_caption(caption(tmp_path, b"\xfe\xff" + TEXT.encode("utf-16-be"))) == (TEXT, None)


def test_white_space_becomes_one_space(tmp_path: Path) -> None:
    path = caption(tmp_path, "\n  soft\train\r\n\r\non a\u00a0 tin \x0croof\n\n".encode())
    assert read_caption(path) == ("soft rain on a tin roof", None)


@pytest.mark.parametrize("content", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\n\0"])
def test_empty_caption_warns(tmp_path: Path, content: bytes) -> None:
    text, warning = read_caption(caption(tmp_path, content))
    assert text == ""
    assert warning == "clip01.txt is empty"


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read_caption(caption(tmp_path, content))
    (item,) = caught.value.items
    assert item.loc == ("body", "training_data_url")
    assert item.msg.startswith("clip01.txt: ")
    return item.msg


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_latin1_is_refused_with_its_place(tmp_path: Path, mark: bytes) -> None:
    content = mark + "grün und café".encode("latin-1")
    message = refusal(tmp_path, content)
    assert f"not valid UTF-8 (byte 0xfc at offset {content.index(0xFC)})" in message
    assert "save it as UTF-8" in message


def test_broken_utf16_is_refused_with_its_place(tmp_path: Path) -> None:
    content = b"\xff\xfea\0" + b"\x00\xd8" + b"b\0"  # half of a surrogate pair
    assert "not valid UTF-16 (byte 0x00 at offset 4)" in refusal(tmp_path, content)
    assert "not valid UTF-16" in refusal(tmp_path, b"\xff\xfea\0b")


@pytest.mark.parametrize(
    ("content", "byte"),
    [
        (TEXT.encode("utf-16")[2:4] + b"a\0", "0x00"),
        (b"a caption\0", "0x00"),
        (b"MThd\0\0\0\x06", "0x00"),
        (b"\x1b[31mred", "0x1b"),
        (b"ends in a separator\x1f", "0x1f"),
    ],
)
def test_binary_is_refused(tmp_path: Path, content: bytes, byte: str) -> None:
    message = refusal(tmp_path, content)
    assert f"control character {byte}" in message
    assert "save it as UTF-8" in message


def test_huge_file_is_not_read(tmp_path: Path) -> None:
    path = caption(tmp_path, b"a" * MAX_BYTES)
    assert read_caption(path)[1] is None
    message = refusal(tmp_path, b"a" * (MAX_BYTES + 1))
    assert "too many for a caption" in message
    assert "1,048,577" in message
