"""unpack: what it accepts, and that each kind of bad archive is refused by name and leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sonolora.core.atomic_files import OutputError
from sonolora.core.errors import InputError
from sonolora.data.archive import ArchiveLimits, unpack

DEFAULT = ArchiveLimits()


def zip_of(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def refused(archive: Path, *words: str, limits: ArchiveLimits = DEFAULT) -> str:
    """The message, once it is sure that the archive is refused and that nothing stays beside it."""
    beside = sorted(archive.parent.iterdir())
    with pytest.raises(InputError) as caught:
        unpack(archive, archive.parent / "out", limits=limits)
    assert sorted(archive.parent.iterdir()) == beside
    (item,) = caught.value.items
    assert item.loc == ("body", "training_data_url")
    assert item.type == "invalid_archive"
    assert item.ctx == {"supported_extensions": [".zip"]}
    for word in words:
        assert word in item.msg
    return item.msg


def test_all_files_come_out(tmp_path: Path) -> None:
    files = {"b.wav": b"sound" * 1000, "deep/er/a.txt": b"words", "empty.txt": b"", "./c.txt": b"dot"}
    archive = zip_of(tmp_path / "x.zip", files)
    out = tmp_path / "new" / "out"
    assert unpack(archive, out) == {}
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        name.removeprefix("./"): content for name, content in files.items()
    }
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP")
@pytest.mark.parametrize("option", ["-0", "-9", "-fz"])  # stored, deflated, zip64
def test_archives_of_info_zip_are_read(tmp_path: Path, option: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "grün.txt").write_text("a caption")
    (tmp_path / "in" / "tone.wav").write_bytes(bytes(100_000))
    subprocess.run(["zip", "-qr", option, tmp_path / "x.zip", "."], cwd=tmp_path / "in", check=True)
    unpack(tmp_path / "x.zip", tmp_path / "out")
    assert subprocess.run(["diff", "-r", tmp_path / "in", tmp_path / "out"], check=True).returncode == 0


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP")
def test_encryption_of_info_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(bytes(1000))
    subprocess.run(["zip", "-q", "-P", "pw", "x.zip", "secret.wav"], cwd=tmp_path, check=True)
    refused(tmp_path / "x.zip", "'secret.wav' is encrypted", "without a password")


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP")
def test_symbolic_link_of_info_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to("/etc/passwd")
    subprocess.run(["zip", "-qy", "x.zip", "link.wav"], cwd=tmp_path, check=True)
    refused(tmp_path / "x.zip", "'link.wav' is a symbolic link", "Put the file itself")


def test_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError):
        unpack(zip_of(tmp_path / "x.zip", {"a.wav": b"a"}), tmp_path / "out")


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a.py")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_text("\ufeff\n <!DOCTYPE html><html>Sign in</html>"), "a web page (HTML)"),
        (lambda path: path.write_text("<?xml version='1.0'?><Error>AccessDenied</Error>"), "an XML document"),
        (lambda path: path.write_text('{"error": "no"}'), "a JSON document"),
        (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip file"),
        (tar, "a tar archive"),
        (lambda path: path.write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(99)), "a RAR archive"),
        (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99)), "a 7z archive"),
        (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVEfmt " + bytes(99)), "a single media file"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
        (lambda path: path.write_bytes(b"what?"), "the bytes 77 68 61 74 3f"),
    ],
)
def test_what_is_not_a_zip_is_called_by_its_kind(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(tmp_path / "clips.zip")
    refused(tmp_path / "clips.zip", "clips.zip is not a .zip archive", kind, "Provide one .zip")


def test_truncated_archive(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": random.Random(0).randbytes(10_000)})
    archive.write_bytes(archive.read_bytes()[:5000])
    refused(archive, "x.zip", "without its end")


def test_flipped_byte_names_the_member(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"good.wav": b"g" * 99, "bad.wav": b"b" * 99}, zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"bbb", b"bbc", 1))
    refused(archive, "'bad.wav' is damaged", "CRC-32", "Make the archive again")


def test_missing_middle_is_damage(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {f"{n}.wav": random.Random(n).randbytes(999) for n in range(9)})
    content = archive.read_bytes()
    archive.write_bytes(content[:2000] + content[3000:])
    refused(archive, "damaged", ".wav")


def test_damaged_table_of_contents(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": b"a"})
    archive.write_bytes(archive.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    refused(archive, "table of contents of x.zip is damaged")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.wav", "'..'"),
        ("a/../../evil.wav", "'..'"),
        ("a/..", "'..'"),
        ("/etc/evil.wav", "absolute path"),
        ("//host/evil.wav", "absolute path"),
        ("C:/evil.wav", "absolute path"),
        ("c:/evil.wav", "absolute path"),
        ("C:\\evil.wav", "absolute path"),
        ("\\\\host\\evil.wav", "absolute path"),
        ("..\\evil.wav", "'..'"),
        ("a\\..\\..\\evil.wav", "'..'"),
        ("../", "'..'"),
        ("a\x01b.wav", "control character"),
        ("a\x00b.wav", "control character"),
        ("n" * 256 + ".wav", "too long"),
        ("ordner/" * 200 + "a.wav", "too long"),
        ("d/" * 33 + "a.wav", "folders deep"),
    ],
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str, why: str) -> None:
    # zipfile cleans names when it writes: put the bad one in afterwards, at the same length.
    stand_in = "\x7f" * len(name.encode())
    archive = zip_of(tmp_path / "x.zip", {"good.wav": b"g", stand_in: b"e"})
    archive.write_bytes(archive.read_bytes().replace(stand_in.encode(), name.encode()))
    shown = name.replace("\\", "/")
    message = refused(archive, why, repr(shown[:200]), "Rename it")
    assert len(message) < 400


@pytest.mark.parametrize("name", ["../cover.jpg", "/etc/cover.jpg", "..\\.hidden"])
def test_no_name_may_lead_out_whatever_it_is(tmp_path: Path, name: str) -> None:
    stand_in = "\x7f" * len(name.encode())
    archive = zip_of(tmp_path / "x.zip", {"good.wav": b"g", stand_in: b"e"})
    archive.write_bytes(archive.read_bytes().replace(stand_in.encode(), name.encode()))
    refused(archive, "path")


def raw_zip(path: Path, *members: tuple[bytes, bytes], flags: int = 0, extra: bytes = b"") -> Path:
    """A zip of (name as bytes, content) exactly as given, which zipfile would not write."""
    files = table = b""
    for name, content in members:
        common = struct.pack("<HHHHHIIIHH", 20, flags, 0, 0, 0x5A21, zlib.crc32(content), len(content), len(content),
                             len(name), len(extra))  # fmt: skip
        table += b"PK\x01\x02\x14\x00" + common + struct.pack("<HHHII", 0, 0, 0, 0x20, len(files)) + name + extra
        files += b"PK\x03\x04" + common + name + extra + content
    count = len(members)
    path.write_bytes(
        files + table + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(table), len(files), 0)
    )
    return path


def unpacked(archive: Path) -> set[str]:
    out = archive.with_suffix("")
    unpack(archive, out)
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    members = [(b"set\\", b""), (b"set\\a.wav", b"1"), (b"set\\sub\\b.wav", b"2")]
    assert unpacked(raw_zip(tmp_path / "x.zip", *members)) == {"set/a.wav", "set/sub/b.wav"}


def test_a_colon_is_no_drive(tmp_path: Path) -> None:
    assert unpacked(raw_zip(tmp_path / "x.zip", (b"A:B.wav", b"1"))) == {"A:B.wav"}


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp932", ["効果音_表.wav", "ソファ.wav", "予告/十能.wav"]),
        ("cp932", ["り.wav", "わ.wav", "カ.wav", "ニ.wav", "イ.wav", "ツ.wav"]),
        ("big5", ["功夫.wav", "許願.wav", "蓋子.wav", "雨聲.wav"]),
        ("cp949", ["계.wav", "고.wav", "빗소리.wav", "발소리 지붕.wav"]),
        ("gbk", ["雨声.wav", "关门声.wav", "脚步.wav"]),
        ("cp1252", ["grün.wav", "GRÜN Straße.wav", "café crème.wav"]),
        ("cp850", ["ação.wav", "coração.wav", "não.wav", "São João.wav"]),
        ("cp866", ["шум дождя.wav", "шаги.wav", "дверь.wav"]),
    ],
)
def test_names_in_the_encoding_of_a_language(tmp_path: Path, encoding: str, names: list[str]) -> None:
    members = [(name.encode(encoding), name.encode()) for name in names]
    archive = raw_zip(tmp_path / "x.zip", *members)
    assert unpacked(archive) == set(names)
    for name in names:
        assert (tmp_path / "x" / name).read_bytes() == name.encode()


def test_names_that_no_encoding_keeps_apart_are_escaped(tmp_path: Path) -> None:
    names = [bytes([byte]) + b".wav" for byte in (0xC0, 0xE0, 0x80, 0x87, 0xA0)]  # each encoding folds two of them
    found = unpacked(raw_zip(tmp_path / "x.zip", *((name, b"1") for name in names)))
    assert found == {"%c0.wav", "%e0.wav", "%80.wav", "%87.wav", "%a0.wav"}


def test_ascii_names_still_clash_beside_names_of_another_encoding(tmp_path: Path) -> None:
    members = [("表.wav".encode("cp932"), b"1"), (b"A.wav", b"2"), (b"a.wav", b"3")]
    refused(raw_zip(tmp_path / "x.zip", *members), "'a.wav' and 'A.wav' differ only by letter case")


def test_the_unicode_path_field_says_how_a_name_is_meant(tmp_path: Path) -> None:
    """Info-ZIP and 7-Zip write it beside a name in a legacy encoding; it counts for just that name."""
    stored, meant = "効果音.wav".encode("cp932"), "効果音 ☂.wav"
    body = b"\x01" + struct.pack("<I", zlib.crc32(stored)) + meant.encode()
    extra = struct.pack("<HH", 0x7075, len(body)) + body
    assert unpacked(raw_zip(tmp_path / "x.zip", (stored, b"1"), extra=extra)) == {meant}
    stale = raw_zip(tmp_path / "y.zip", ("雨.wav".encode("cp932"), b"1"), extra=extra)
    assert unpacked(stale) == {"雨.wav"}
    body = b"\x01" + struct.pack("<I", zlib.crc32(stored)) + b"../evil.wav"
    evil = raw_zip(tmp_path / "z.zip", (stored, b"1"), extra=struct.pack("<HH", 0x7075, len(body)) + body)
    refused(evil, "'..'")
    broken = b"\x01" + struct.pack("<I", zlib.crc32(stored)) + b"\xff\xfe"
    damaged = raw_zip(tmp_path / "w.zip", (stored, b"1"), extra=struct.pack("<HH", 0x7075, len(broken)) + broken)
    assert unpacked(damaged) == {"効果音.wav"}


def test_what_is_nobodys_data_stays_packed_where_it_would_be_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo(".venv/bin/python")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/usr/bin/python")
        for name in ("Icon\r", "__MACOSX/._a.wav", "__MACOSX/._A.wav", "a.wav"):
            archive.writestr(name, b"bytes")
    link = zipfile.ZipInfo("art/cover.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr(link, "/etc/passwd")
        for name in ("a.png", "A.png", "b.png"):
            archive.writestr(name, b"bytes")
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(b"b.png", b"a.png"))
    assert unpack(tmp_path / "x.zip", tmp_path / "out") == {
        ".venv/bin/python": "hidden",
        "Icon\\r": "macOS metadata",
        "__MACOSX/._A.wav": "macOS metadata",
        "art/cover.jpg": "not unpacked: it is a symbolic link. Put the file itself into the archive.",
        "a.png (again)": "not unpacked: it is there twice. Rename or remove one of them.",
        "A.png": "not unpacked: it and 'a.png' differ only by letter case or unicode form. Rename or remove one of "
        "them.",
    }
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"__MACOSX/._a.wav", "a.wav", "a.png"}


def test_room_is_looked_at_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": b"a" * 2_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(OutputError, match=r"0\.00 GB are needed, and the disk has 0\.00 GB free"):
        unpack(archive, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [archive]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": b"a" * 100_000})
    full = Path("/dev/full")
    monkeypatch.setattr("sonolora.data.archive._create", lambda *_: full.open("wb"))
    with pytest.raises(OutputError, match="the disk is full"):
        unpack(archive, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize(
    ("mode", "words"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "special"), (stat.S_IFCHR, "special")]
)
def test_special_files_are_refused(tmp_path: Path, mode: int, words: str) -> None:
    info = zipfile.ZipInfo("odd.wav")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "x.zip", "'odd.wav'", words)


@pytest.mark.parametrize(
    ("method", "name"),
    [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA"), (9, "Deflate64"), (77, "77")],
)
def test_other_methods_are_refused(tmp_path: Path, method: int, name: str) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": b"aaaa"})
    content = bytearray(archive.read_bytes())
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 10, method)
    archive.write_bytes(content)
    refused(archive, "'a.wav' is compressed with", name, "Deflate or Store")


def test_double_and_look_alike_names(tmp_path: Path) -> None:
    twice = zip_of(tmp_path / "twice.zip", {"a.wav": b"1", "b.wav": b"2"})
    twice.write_bytes(twice.read_bytes().replace(b"b.wav", b"a.wav"))
    refused(twice, "'a.wav' is there twice", "Rename or remove")
    refused(zip_of(tmp_path / "dot.zip", {"a.wav": b"1", "./a.wav": b"2"}), "'a.wav' is there twice")
    case = zip_of(tmp_path / "case.zip", {"d/Clip.wav": b"1", "d/clip.WAV": b"2"})
    refused(case, "'d/clip.WAV' and 'd/Clip.wav'", "letter case")
    forms = {unicodedata.normalize(form, "né.wav"): b"1" for form in ("NFC", "NFD")}
    refused(zip_of(tmp_path / "form.zip", forms), "unicode form")


def test_file_that_is_also_a_folder(tmp_path: Path) -> None:
    refused(zip_of(tmp_path / "x.zip", {"a": b"1", "a/b.wav": b"2"}), "'a/b.wav' clashes")
    refused(zip_of(tmp_path / "y.zip", {"a/b.wav": b"2", "a": b"1"}), "'a' clashes")


def test_names_without_the_utf8_flag(tmp_path: Path) -> None:
    """macOS leaves the flag out and writes UTF-8, DOS tools write cp437; zipfile reads both as cp437."""
    archive = zip_of(tmp_path / "x.zip", {"n??.wav": b"mac", "n?.wav": b"dos"})
    archive.write_bytes(archive.read_bytes().replace(b"n??", "né".encode()).replace(b"n?", "nü".encode("cp437")))
    assert unpacked(archive) == {"né.wav", "nü.wav"}


def test_invalid_utf8_in_a_flagged_name(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"né.wav": b"1"})
    archive.write_bytes(archive.read_bytes().replace("né".encode(), b"n\xff\xff"))
    refused(archive, "x.zip is damaged", "utf-8")


def test_small_silence_passes_and_a_bomb_does_not(tmp_path: Path) -> None:
    """Deflate reaches 1000:1 on silence; only a large archive of nothing else is refused."""
    silence = zip_of(tmp_path / "silence.zip", {"a.wav": bytes(20 << 20)})
    assert (20 << 20) / silence.stat().st_size > 900
    unpack(silence, tmp_path / "out")
    assert (tmp_path / "out" / "a.wav").stat().st_size == 20 << 20
    shutil.rmtree(tmp_path / "out")
    refused(silence, "silence.zip", "unpacks to more than", limits=ArchiveLimits(any_ratio_bytes=10 << 20))
    refused(silence, "20,000,000 bytes allowed", limits=ArchiveLimits(max_bytes=20_000_000))
    assert ArchiveLimits().any_ratio_bytes < ArchiveLimits().max_bytes


def test_overlapping_members_count_each_time(tmp_path: Path) -> None:
    """A megabyte that 300 entries point at is 300 megabytes, although each alone has a modest ratio."""
    archive = zip_of(tmp_path / "x.zip", {"000": random.Random(0).randbytes(1000) * 1049})
    content = archive.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entries = b"".join(content[start:end].replace(b"000", f"{n:03}".encode()) for n in range(300))
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 300, 300, len(entries), start, 0)
    archive.write_bytes(content[:start] + entries + record)
    refused(archive, "x.zip", "unpacks to more than the 268,435,456 bytes allowed")


def test_understated_size_is_caught_while_unpacking(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": bytes(5 << 20)})
    content = bytearray(archive.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 24, 10)
    archive.write_bytes(content)
    refused(archive, "'a.wav' is damaged", limits=ArchiveLimits(max_bytes=1000))


def test_size_is_counted_whatever_the_headers_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = (bytes(1000) for _ in itertools.count())
    monkeypatch.setattr("sonolora.data.archive._content", lambda *_: endless)
    archive = zip_of(tmp_path / "x.zip", {"a.wav": b"a"})
    refused(archive, "unpacks to more than the 1,000,000 bytes", limits=ArchiveLimits(max_bytes=1_000_000))


def test_overstated_size_is_caught(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a.wav": b"abc"})
    content = bytearray(archive.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 24, 10)
    archive.write_bytes(content)
    refused(archive, "'a.wav' is damaged", "3 of 10 bytes")


def test_counts_are_limited(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {f"{n}.txt": b"" for n in range(20)})
    refused(archive, "holds 20 files", limits=ArchiveLimits(max_members=19))
    refused(archive, "table of contents", "more than 500", limits=ArchiveLimits(max_directory_bytes=500))


def test_any_broken_archive_is_an_input_error(tmp_path: Path) -> None:
    """Random damage is an InputError, or goes unnoticed in unused header fields: no other error."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.wav", random.Random(1).randbytes(50) * 3)
        made.writestr("d/é.txt", b"caption")
    original, rng, refusals = buffer.getvalue(), random.Random(0), 0
    archive = tmp_path / "x.zip"
    for trial in range(600):
        content = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.choice((0, 1, 0x80, 0xFF, rng.randrange(256)))
        archive.write_bytes(content)
        try:
            unpack(archive, tmp_path / f"out{trial}")
        except InputError:
            refusals += 1
    assert refusals > 300
    assert not list(tmp_path.glob(".*"))
