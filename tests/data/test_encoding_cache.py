"""The cache: what is stored is found, whatever is wrong is a miss, and nothing stops a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sonolora.core.checked_tensors import save_checked
from sonolora.core.errors import InputError
from sonolora.core.tensor_file import save_tensors
from sonolora.data.cache_folder import clear, entries, limit_bytes, prune
from sonolora.data.encoding_cache import Cache, content_key

KEY = content_key("kind", "x")
TENSORS = {"latents": torch.arange(6, dtype=torch.float32).reshape(1, 2, 3), "video": torch.ones(2).bfloat16()}
MB = 1_000_000


def entry_of(folder: Path) -> Path:
    (entry,) = folder.rglob("*.safetensors")
    return entry


def test_what_is_stored_is_found(tmp_path: Path) -> None:
    Cache(tmp_path).get(KEY, lambda: TENSORS)
    found = Cache(tmp_path).get(KEY, lambda: pytest.fail("computed again"))
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    assert Cache(tmp_path).find(content_key("kind", "y")) is None


def test_keys_depend_on_everything_and_on_the_boundaries() -> None:
    keys = [content_key("a", "bc"), content_key("a", "b", "c"), content_key("ab", "c"), content_key("a", b"bc", b"")]
    assert len(set(keys)) == 4


def test_every_flipped_bit_is_a_miss(tmp_path: Path) -> None:
    """Of header and data alike; in padding, where nothing is, it may do no harm."""
    cache = Cache(tmp_path)
    cache.put(KEY, TENSORS)
    entry = entry_of(tmp_path)
    content = entry.read_bytes()
    for position in range(len(content)):
        entry.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        found = cache.find(KEY)
        assert found is None or all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items()), position
    assert Cache(tmp_path).get(KEY, lambda: TENSORS).keys() == TENSORS.keys()
    assert entry.read_bytes() == content, "made again"


@pytest.mark.parametrize("damage", ["empty", "half", "no digest", "of another key", "not finite", "a folder", "JSON"])
def test_whatever_is_wrong_with_an_entry_is_a_miss(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, TENSORS)
    entry = entry_of(tmp_path)
    match damage:
        case "empty":
            entry.write_bytes(b"")
        case "half":
            entry.write_bytes(entry.read_bytes()[:-4])
        case "no digest":
            save_tensors(entry, TENSORS)
        case "of another key":
            other = content_key("kind", "y")
            cache.put(other, TENSORS)
            entry.write_bytes((tmp_path / other[:2] / f"{other}.safetensors").read_bytes())
        case "not finite":
            save_checked(entry, {"latents": torch.tensor([1.0, float("nan")])}, {"key": KEY})
        case "a folder":
            entry.unlink()
            entry.mkdir()
        case "JSON":
            entry.write_bytes(b"{}")
    assert cache.find(KEY) is None


def test_what_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    Cache(tmp_path).put(KEY, {"latents": torch.tensor([float("inf")])})
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_cache_that_cannot_be_written_is_said_once_and_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    warnings: list[str] = []
    cache = Cache(tmp_path / "file" / "cache", warn=warnings.append)
    for number in range(3):
        assert torch.equal(cache.get(content_key("k", str(number)), lambda: TENSORS)["latents"], TENSORS["latents"])
    (warning,) = warnings
    assert warning.startswith("the cache cannot be written (")
    assert str(tmp_path) not in warning


def test_beyond_its_limit_it_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=4 * MB + 100_000)
    keys = [content_key("k", str(number)) for number in range(5)]
    for age, key in enumerate(keys[:4]):
        cache.put(key, {"x": torch.full((MB // 4,), float(age))})
        os.utime(tmp_path / key[:2] / f"{key}.safetensors", (age, age))
    assert cache.find(keys[0]) is not None  # which is a use
    cache.put(keys[4], {"x": torch.zeros(MB // 4)})
    assert [cache.find(key) is not None for key in keys] == [True, False, False, True, True]
    assert sum(entry.size for entry in entries(tmp_path)) < 4 * MB
    cache.put(content_key("k", "large"), {"x": torch.zeros(2 * MB)})
    assert cache.find(content_key("k", "large")) is None, "larger than the whole cache"
    assert cache.find(keys[4]) is not None


def test_a_limit_of_nothing_is_no_cache(tmp_path: Path) -> None:
    Cache(tmp_path, limit=0).put(KEY, TENSORS)
    assert list(entries(tmp_path)) == []


def test_pruning_and_clearing_leave_other_files_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(4):
        cache.put(content_key("k", str(number)), {"x": torch.zeros(MB // 4)})
    mine = [tmp_path / "notes.txt", tmp_path / "ab" / "model.safetensors", tmp_path / "models" / "x.safetensors"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    removed, freed = prune(tmp_path, int(2.5 * MB))
    assert (removed, round(freed / MB)) == (2, 2)
    assert clear(tmp_path)[0] == 2
    assert list(entries(tmp_path)) == []
    assert all(path.read_text() == "mine" for path in mine)
    assert prune(tmp_path / "gone", 0) == (0, 0)


@pytest.mark.parametrize(("text", "size"), [("", 20_000_000_000), ("0", 0), ("0.5", 500_000_000)])
def test_the_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("SONOLORA_CACHE_GB", text)
    assert limit_bytes() == size


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SONOLORA_CACHE_GB", text)
    with pytest.raises(InputError, match="SONOLORA_CACHE_GB: must be a size in GB"):
        limit_bytes()
