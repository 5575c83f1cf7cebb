"""Names of bases: kept whole, in turns, and found by `find_base` before anything else but the built-in ones."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sonolora.core.atomic_files import OutputError
from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.ltx.weights.base import add_base, find_base
from sonolora.ltx.weights.registry import Entry, register, registered, registry_file, unregister


@pytest.fixture(autouse=True)
def _own_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "config" / "bases.json"))


@pytest.fixture
def tiny() -> Entry:
    base = find_base("tiny")
    return Entry(base.checkpoint.path, base.text_encoder)


def test_names_are_kept_in_their_order(tiny):
    assert registered() == {}
    register("b", tiny)
    register("a", Entry(Path("/x/model.safetensors"), Path("/x/gemma")))
    assert list(registered()) == ["b", "a"]
    assert registered()["a"] == Entry(Path("/x/model.safetensors"), Path("/x/gemma"))
    assert unregister("b") == tiny
    assert list(registered()) == ["a"]
    with pytest.raises(SonoloraError, match="no base 'b' is registered; registered are a"):
        unregister("b")


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("SONOLORA_BASES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert registry_file() == tmp_path / "sonolora" / "bases.json"


def test_several_at_once_lose_nothing(tiny):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: register(f"base{number}", tiny), range(24)))
    assert sorted(registered()) == sorted(f"base{number}" for number in range(24))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"bases": []}', '{"bases": {"a": {"checkpoint": 3}}}'])
def test_a_damaged_file_is_named_and_kept(text, tiny):
    registry_file().parent.mkdir()
    registry_file().write_text(text)
    with pytest.raises(SonoloraError, match=r"bases\.json: not a list of bases"):
        register("a", tiny)
    assert registry_file().read_text() == text


def test_a_failed_write_keeps_the_old_file(tiny, monkeypatch):
    register("a", tiny)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="the disk is full"):
        register("b", tiny)
    assert list(json.loads(registry_file().read_text())["bases"]) == ["a"]


def test_a_registered_base_is_found(tiny):
    register("mine", tiny)
    base = find_base("mine")
    assert (base.name, base.checkpoint.path, base.text_encoder) == ("mine", tiny.checkpoint, tiny.text_encoder)
    assert base.fingerprint == find_base("tiny").fingerprint
    with pytest.raises(SonoloraError, match=r"known bases: tiny, mine\. "):
        find_base("other")


def test_a_base_that_went_away_is_named(tiny, tmp_path):
    register("moved", Entry(tmp_path / "gone.safetensors", tiny.text_encoder))
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: cannot be read"):
        find_base("moved")
    register("half", Entry(tiny.checkpoint, tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"'half': the text encoder is no longer at .*gone; add it again"):
        find_base("half")


def test_a_file_is_not_a_base(tiny):
    with pytest.raises(CheckpointError, match=r"sonolora base add NAME --checkpoint .*tiny\.safetensors"):
        find_base(str(tiny.checkpoint))


def test_what_is_not_published_is_not_added(checkpoint, tiny):
    with pytest.raises(
        CheckpointError, match=r"not the published LTX-2\.3: \d{4} differences .*, such as shape: audio_vae\."
    ):
        add_base("golden", [str(checkpoint.path)], str(tiny.text_encoder))
    assert registered() == {}


def test_taken_names(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("tiny", "folder"):
        with pytest.raises(SonoloraError, match=f"the name '{name}' is taken"):
            add_base(name, [str(tiny.checkpoint)], str(tiny.text_encoder))
