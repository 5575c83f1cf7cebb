"""discover lists every file once, as usable or as ignored with a reason."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from sonolora.core.errors import InputError
from sonolora.core.file_names import name_key
from sonolora.data.dataset_files import Files, discover, may_be_data


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_usable_files_in_posix_order(tmp_path: Path) -> None:
    names = ["b.wav", "a/z.wav", "a/b/c.txt", "a.txt", "B.wav", "é.wav", "clips.zip/inside.wav"]
    files = discover(folder_of(tmp_path, *names))
    assert files.names == tuple(sorted(names))
    assert files.ignored == {}
    assert files.path("a/b/c.txt") == tmp_path / "a/b/c.txt"
    assert files.path("a/b/c.txt").read_bytes() == b"x"
    assert discover(tmp_path) == files


def test_empty_folder(tmp_path: Path) -> None:
    assert discover(tmp_path) == Files(tmp_path, (), {})


@pytest.mark.parametrize(
    ("name", "listed", "reason"),
    [
        (".DS_Store", ".DS_Store", "macOS"),
        ("d/.DS_Store", "d/.DS_Store", "macOS"),
        ("__MACOSX/d/._a.wav", "__MACOSX/", "macOS"),
        ("d/__MACOSX/a.wav", "d/__MACOSX/", "macOS"),
        ("d/._a.wav", "d/._a.wav", "macOS"),
        (".hidden.wav", ".hidden.wav", "hidden"),
        (".git/objects/a.wav", ".git/", "hidden"),
        ("d/Thumbs.db", "d/Thumbs.db", "Windows"),
        ("Desktop.ini", "Desktop.ini", "Windows"),
        ("more.zip", "more.zip", "not opened: put its files here"),
        ("d/MORE.ZIP", "d/MORE.ZIP", "not opened"),
        ("old.tar.gz", "old.tar.gz", "not opened"),
        ("line\nbreak.wav", "line\nbreak.wav", "rename"),
    ],
)
def test_ignored_files_have_a_reason(tmp_path: Path, name: str, listed: str, reason: str) -> None:
    files = discover(folder_of(tmp_path, "a.wav", name))
    assert files.names == ("a.wav",)
    assert list(files.ignored) == [listed]
    assert reason in files.ignored[listed]


def test_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"x")
    files = discover(tmp_path)
    assert files.names == ()
    assert files.ignored == {"caf\\xe9.wav": "its name is not valid text: rename it"}


def test_results_of_an_earlier_run_are_no_data(tmp_path: Path) -> None:
    for name in ("a.wav", "my-run/report.json", "my-run/report.html", "my-run/previews/0001.wav", "b/report.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = discover(tmp_path)
    assert files.names == ("a.wav", "b/report.json")
    assert files.ignored == {"my-run/": "results of an earlier check or run, not data"}


def test_links(tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside", "o.wav", "sub/p.wav")
    root = folder_of(tmp_path / "root", "in/a.wav", ".store/b.wav")
    (root / "good.wav").symlink_to("in/a.wav")
    (root / "stored.wav").symlink_to(root / ".store" / "b.wav")
    (root / "out.wav").symlink_to(outside / "o.wav")
    (root / "up.wav").symlink_to("../outside/o.wav")
    (root / "sub").symlink_to(outside / "sub")
    (root / "loop").symlink_to(root)
    (root / "self.wav").symlink_to("self.wav")
    (root / "gone.wav").symlink_to("nothing.wav")
    (tmp_path / "rooted").symlink_to(root)
    for start in (root, tmp_path / "rooted"):
        files = discover(start)
        assert files.names == ("good.wav", "in/a.wav", "stored.wav")
        assert list(files.ignored) == [".store/", "gone.wav", "loop", "out.wav", "self.wav", "sub", "up.wav"]
        assert all("leads out" in files.ignored[name] for name in ("out.wav", "sub", "up.wav"))
        assert "not a file" in files.ignored["loop"]
        assert "broken link" in files.ignored["gone.wav"]


def test_what_was_not_unpacked_is_listed_too(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.wav", "cover.jpg")
    files = discover(tmp_path, {"b/link.jpg": "not unpacked", "cover.jpg": "not unpacked: it is there twice"})
    assert files.names == ("a.wav", "cover.jpg")
    assert files.ignored == {"b/link.jpg": "not unpacked"}


def test_what_may_be_data() -> None:
    assert all(map(may_be_data, ("a.WAV", "b.mov", "c.txt", "d_mask.json", "metadata.csv", "metadata.jsonl")))
    assert not any(map(may_be_data, ("cover.jpg", "README", "a.wav.asd", "python")))


def test_special_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert discover(tmp_path).ignored == {"pipe.wav": "not a file"}


def test_unreadable_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder '.*/gone' cannot be read: No such file"):
        discover(tmp_path / "gone")


def test_name_key() -> None:
    assert name_key("É.WAV") == name_key(unicodedata.normalize("NFD", "é.wav"))
    assert name_key("a.wav") != name_key("á.wav")
