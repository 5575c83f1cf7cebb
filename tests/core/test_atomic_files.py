from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from sonolora.core.atomic_files import OutputError, PartialFile, atomic_write, remove_half_written, write_json
from sonolora.core.errors import SonoloraError


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".txt"
            temporary.write_text(text)
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_permission_bits_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("existing", [True, False])
def test_operating_system_errors_become_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str, existing: bool
) -> None:
    path = tmp_path / "a.txt"
    if existing:
        path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=reason) as caught, atomic_write(path) as temporary:
        temporary.write_text("new")
    assert isinstance(caught.value, SonoloraError)
    assert str(path) in str(caught.value)
    assert ("previous file is unchanged" in str(caught.value)) == existing
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if existing else [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the always-full device")
def test_a_truly_full_device(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x" * 100_000)

    with pytest.raises(OutputError, match="disk is full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_long_names_fit(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_json(path, 1)
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip(tmp_path: Path) -> None:
    data = {"caption": "Regen auf dem Dach, 雨", "name": os.fsdecode(b"caf\xe9.wav"), "loss": [0.5, None]}
    write_json(tmp_path / "a.json", data)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "雨" in text
    assert json.loads(text) == data


def test_json_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_resumes_only_what_it_was_begun_as(tmp_path: Path) -> None:
    target = tmp_path / "clips.zip"
    partial = PartialFile(target)
    assert partial.resume() == ("", [])
    partial.begin('"etag"')
    partial.part.write_bytes(b"half")
    partial.note("0")
    partial.note("32")
    again = PartialFile(target)
    assert (again.resume(), again.size) == (('"etag"', ["0", "32"]), 4)
    again.begin("other")
    assert (again.resume(), again.size) == (("other", []), 0)
    again.begin("")
    assert again.resume() == ("", []), "without an identity nothing is resumed"
    assert not target.exists()


def test_a_finished_partial_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path / "clips.zip")
    partial.begin("1")
    partial.part.write_bytes(b"all")
    assert partial.finish().read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [tmp_path / "clips.zip"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    with atomic_write(tmp_path / "previews" / "a.wav") as temporary:
        temporary.write_bytes(b"x")
    (tmp_path / "previews" / "a.wav").rename(temporary)  # as a kill before the rename leaves it
    PartialFile(tmp_path / "b.zip").begin("1")
    (tmp_path / "partial.wav").write_bytes(b"mine")
    remove_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["partial.wav", "previews"]
