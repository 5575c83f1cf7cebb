"""read_caption: the encodings that are read, and what is refused with a place and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonolora.data.captions import MAX_BYTES, Caption, read_caption

TEXT = "f0leyvox Regen auf dem Dächlein, 雨 🌧"


def caption(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "clip01.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    assert read_caption(caption(tmp_path, TEXT.encode(encoding))) == Caption(TEXT)


def test_utf16_big_endian(tmp_path: Path) -> None:
    assert read_caption(caption(tmp_path, b"\xfe\xff" + TEXT.encode("utf-16-be"))) == Caption(TEXT)


def test_white_space_becomes_one_space(tmp_path: Path) -> None:
    path = caption(tmp_path, "\n  soft\train\r\n\r\non a\u00a0 tin \x0croof\n\n".encode())
    assert read_caption(path) == Caption("soft rain on a tin roof")


@pytest.mark.parametrize("content", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\n\0"])
def test_empty_caption_warns(tmp_path: Path, content: bytes) -> None:
    assert read_caption(caption(tmp_path, content)) == Caption("", ("is empty",))


def test_invisible_characters_are_removed_and_are_no_caption(tmp_path: Path) -> None:
    text = "\ufeffsoft\u200b rain\u2060 on a\u00ad roof"
    assert read_caption(caption(tmp_path, text.encode())) == Caption("soft rain on a roof")
    assert read_caption(caption(tmp_path, "\u200b\u200b \u2060".encode())) == Caption(
        "", ("holds only invisible characters, so it is an empty caption",)
    )
    marks = "\u200e\u202asoft\u202c rain\u2069\u200f"  # of the direction of writing
    assert read_caption(caption(tmp_path, marks.encode())) == Caption("soft rain")
    persian = "می\u200cخواهم 👩\u200d🚀"  # whose joiners are part of the words
    assert read_caption(caption(tmp_path, persian.encode())) == Caption(persian)


@pytest.mark.parametrize("text", ["the cat’s purr", "grün und café", "böse", "a bell – “quoted” for 50 €"])
def test_windows_1252_is_read_with_a_warning_that_shows_the_text(tmp_path: Path, text: str) -> None:
    found = read_caption(caption(tmp_path, text.encode("cp1252")))
    assert found.text == text
    (warning,) = found.warnings
    assert warning.startswith(f"is not UTF-8 and was read as Windows-1252: '{text}'")
    assert len(read_caption(caption(tmp_path, b"\xe9 " + b"word " * 999)).warnings[0]) < 200


@pytest.mark.parametrize(
    "content",
    [
        "мягкий дождь по крыше".encode("cp1251"),
        "柔らかい雨".encode("cp932"),
        "轻柔的雨声".encode("gbk"),
        b"caf\xe9 \x81",
        "grün".encode("latin-1") + b"\x8d",
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, content: bytes) -> None:
    assert "not valid UTF-8" in refusal(tmp_path, content)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(ValueError, match=r".+") as caught:
        read_caption(caption(tmp_path, content))
    return str(caught.value)


def test_invalid_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfcaf\xe9 \x81"
    message = refusal(tmp_path, content)
    assert f"not valid UTF-8 (byte 0xe9 at offset {content.index(0xE9)})" in message
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
        (b"the cat\xc3\xa2\xc2\x80\xc2\x99s purr", "0x80"),  # encoded twice
    ],
)
def test_binary_is_refused(tmp_path: Path, content: bytes, byte: str) -> None:
    message = refusal(tmp_path, content)
    assert f"control character {byte}" in message
    assert "save it as UTF-8" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"{\rtf1\ansi{\fonttbl\f0\fswiss Helvetica;}\f0\fs24 \cf0 a kettle boils}", "Rich Text (RTF)"),
        ('\ufeff {"caption": "a kettle boils"}', "JSON"),
        ('[{"text": "a kettle boils"}]', "JSON"),
        ('{"caption": "a kettle boils",}', "JSON"),
        ("{'caption': 'a kettle boils'}", "JSON"),
        ("\n<!DOCTYPE html><p>a kettle boils", "a web page (HTML)"),
    ],
)
def test_other_formats_in_a_text_file_are_called_by_their_name(tmp_path: Path, text: str, words: str) -> None:
    assert refusal(tmp_path, text.encode()).startswith(words)


@pytest.mark.parametrize(
    "text", ["[intro] soft rain", "{softly} a bell", '["Stop!", she shouts]', "<drum> a roll", "[", '"a bell"', "12"]
)
def test_brackets_alone_are_no_json(tmp_path: Path, text: str) -> None:
    assert read_caption(caption(tmp_path, text.encode())) == Caption(text)


def test_huge_file_is_not_read(tmp_path: Path) -> None:
    assert read_caption(caption(tmp_path, b"a" * MAX_BYTES)).warnings == ()
    message = refusal(tmp_path, b"a" * (MAX_BYTES + 1))
    assert "too many for a caption" in message
    assert "1,048,577" in message
