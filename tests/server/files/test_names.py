"""Names and media types that any disk, header and URL can hold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sonolora.server.files.names import media_type, safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("clips.zip", "clips.zip"),
        ("My dog, barking (take 2) [v1].wav", "My dog, barking (take 2) [v1].wav"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("/", "file"),
        ("..", "file"),
        ("", "file"),
        (" . ", "file"),
        ("a/b/", "b"),
        (".hidden", "hidden"),
        ("a\r\nSet-Cookie: x=1.zip", "a  Set-Cookie_ x=1.zip"),
        ('a"b;filename="c.exe.wav', "a_b;filename=_c.exe.wav"),
        ("nul\x00byte\x7f\x85.wav", "nulbyte .wav"),
        ("gpj.\u202ewav.exe", "gpj.wav.exe"),  # shown from right to left
        ("half\ud800.wav", "half.wav"),
        ("line\u2028break.wav", "line break.wav"),
        ("cafe\u0301.wav", "caf\u00e9.wav"),
        ("скрипка 🎻.flac", "скрипка 🎻.flac"),
        ("100%25.zip", "100%25.zip"),
        ("CON:stream.txt", "CON_stream.txt"),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert safe_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("x" * 5000 + ".safetensors", "xxx", ".safetensors"),
        ("ж" * 5000 + ".zip", "жжж", "ж.zip"),
        ("🎻" * 5000, "🎻", "🎻"),
        ("a." + "b" * 5000, "a.b", "b"),
    ],
)
def test_long_names_keep_start_and_suffix(tmp_path: Path, name: str, start: str, end: str) -> None:
    safe = safe_name(name)
    assert safe.startswith(start)
    assert safe.endswith(end)
    assert 140 <= len(safe.encode()) <= 160
    (tmp_path / safe).touch()


def test_random_names_are_safe(tmp_path: Path) -> None:
    chance = random.Random(0)
    alphabet = [chr(code) for code in (*range(0x180), *range(0x2000, 0x2070), 0xD800, 0xFEFF, 0xFFFE, 0x1F600)]
    for _ in range(500):
        safe = safe_name("".join(chance.choices(alphabet, k=chance.randrange(300))))
        assert safe == safe_name(safe)
        assert safe not in ("", ".", "..")
        assert safe.isprintable()
        assert len(safe.encode()) <= 160
        path = tmp_path / safe
        path.touch()
        assert [*tmp_path.iterdir()] == [path]
        path.unlink()


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/zip", "application/zip"),
        ("Text/Plain; charset=utf-8", "text/plain"),
        ("image/svg+xml", "image/svg+xml"),
        ("", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("audio/wav\r\nX-Evil: 1", "application/octet-stream"),
        ("a/b c", "application/octet-stream"),
        ("аудио/wav", "application/octet-stream"),
        ("audio/" + "x" * 500, "application/octet-stream"),
    ],
)
def test_media_types(content_type: str, expected: str) -> None:
    assert media_type(content_type) == expected
