"""Bases in an object store: published once, fetched once, whole or not at all, and found by fingerprint."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from run_support import Recorded
from shallow_base import write_shallow_base

from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.core.object_store import ObjectStore, ObjectStoreError
from sonolora.ltx.weights import stored_base
from sonolora.ltx.weights.base import BUILT_IN, find_base
from sonolora.ltx.weights.base_lookup import find_by_fingerprint
from sonolora.ltx.weights.registry import Entry, register
from sonolora.ltx.weights.stored_base import fetch, is_published, publish

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'sonolora[s3]'")


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    return find_base(str(write_shallow_base(BUILT_IN / "tiny", tmp_path_factory.mktemp("base") / "shallow")))


@pytest.fixture(scope="module")
def published(tmp_path_factory, shallow):
    """The address of a store that has it."""
    address = f"file://{tmp_path_factory.mktemp('store')}/objects"
    amounts = []
    assert publish(shallow, ObjectStore(address), lambda done, total: amounts.append((done, total)))
    assert amounts == sorted(amounts) and amounts[-1][0] == amounts[-1][1]
    assert not publish(shallow, ObjectStore(address), lambda done, total: None)  # noqa: ARG005
    return address


@pytest.fixture
def objects(published, tmp_path, monkeypatch):
    """The store, for a machine without bases."""
    monkeypatch.setenv("SONOLORA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    return ObjectStore(published)


def test_a_base_is_found_by_its_fingerprint_whatever_it_is_called(objects, shallow, tmp_path):
    told = Recorded()
    found = find_by_fingerprint("studio", shallow.fingerprint, objects, told)
    assert (found.name, found.fingerprint) == ("studio", shallow.fingerprint)
    assert told.phases == ["fetching the base"] and told.messages[-1].startswith("fetching the base, 0.0")
    assert found.checkpoint.path.read_bytes() == shallow.checkpoint.path.read_bytes()
    # Now it is here, and nothing is told.
    told = Recorded()
    assert find_by_fingerprint("studio", shallow.fingerprint, objects, told).name == "studio"
    shutil.rmtree(tmp_path / "models")
    register("mine", Entry(shallow.checkpoint.path, shallow.text_encoder))
    register("gone", Entry(tmp_path / "gone.safetensors", shallow.text_encoder))
    assert find_by_fingerprint("gone", shallow.fingerprint, objects, told).checkpoint.path == shallow.checkpoint.path
    tiny = find_base("tiny")
    assert find_by_fingerprint("x", tiny.fingerprint, objects, told).checkpoint.path == tiny.checkpoint.path
    assert not told.phases and not (tmp_path / "models").exists()


def test_one_that_is_nowhere_says_what_to_do(objects):
    assert not is_published(objects, "0" * 16)
    with pytest.raises(SonoloraError, match="sonolora base publish studio --files file://"):
        find_by_fingerprint("studio", "0" * 16, objects, Recorded())


def test_two_runs_that_start_at_once_fetch_once(objects, shallow, monkeypatch):
    real, names, both = ObjectStore.download, [], threading.Event()

    def download(self, name, *rest, **more):
        assert both.wait(30)
        names.append(name)
        return real(self, name, *rest, **more)

    monkeypatch.setattr(ObjectStore, "download", download)
    with ThreadPoolExecutor(2) as threads:
        arguments = shallow.fingerprint, "studio", objects, lambda done, total: None, both.set  # noqa: ARG005
        found = [one.result() for one in [threads.submit(fetch, *arguments) for _ in range(2)]]
    assert [base.fingerprint for base in found] == [shallow.fingerprint] * 2
    assert len(names) == len(set(names))


def test_a_fetch_that_was_cut_goes_on_and_nothing_is_there_until_it_is_whole(objects, shallow, tmp_path, monkeypatch):
    size = shallow.checkpoint.path.stat().st_size
    monkeypatch.setattr("sonolora.core.object_store._BLOCK_BYTES", size // 4)

    class CutError(Exception):
        pass

    def cut(done, total):  # noqa: ARG001
        if done >= size // 2:
            raise CutError

    def waiting(): ...

    with pytest.raises(CutError):
        fetch(shallow.fingerprint, "studio", objects, cut, waiting)
    assert not list((tmp_path / "models").rglob("[!.]*.safetensors")) and not list(
        (tmp_path / "models").rglob("base.json")
    )
    amounts = []
    base = fetch(shallow.fingerprint, "studio", objects, lambda done, total: amounts.append(done), waiting)  # noqa: ARG005
    assert amounts[0] > size // 2, "it goes on where it was cut"
    assert base.checkpoint.path.read_bytes() == shallow.checkpoint.path.read_bytes()


def test_damaged_content_is_refused(objects, shallow, tmp_path):
    other = f"file://{tmp_path}/damaged"
    shutil.copytree(objects.address.removeprefix("file://"), tmp_path / "damaged")
    (stored,) = (tmp_path / "damaged").rglob("shallow.safetensors")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(ObjectStoreError, match="damaged content"):
        fetch(shallow.fingerprint, "studio", ObjectStore(other), lambda done, total: None, lambda: None)  # noqa: ARG005
    assert not list((tmp_path / "models").rglob("*.safetensors"))
    stored.unlink()
    with pytest.raises(CheckpointError, match="publish the base again"):
        fetch(shallow.fingerprint, "studio", ObjectStore(other), lambda done, total: None, lambda: None)  # noqa: ARG005
    assert stored_base.fetched(shallow.fingerprint, "studio") is None
