"""`sonolora cache`: what it shows, and what it removes."""

from __future__ import annotations

import pytest
import torch

from sonolora.data.encoding_cache import Cache, content_key


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SONOLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SONOLORA_CACHE_GB", raising=False)
    cache = Cache(tmp_path / "cache")
    for number in range(3):
        cache.put(content_key("k", str(number)), {"x": torch.zeros(2_500_000)})
    return tmp_path / "cache"


def test_it_shows_folder_size_and_limit(sonolora, cache):
    out = sonolora("cache", "show").out
    assert f"folder     {cache}\nentries    3, 0.03 GB\nlimit      20.00 GB (set SONOLORA_CACHE_GB" in out
    assert "unused     for up to 0 days" in out


@pytest.mark.usefixtures("cache")
def test_it_shrinks_and_clears(sonolora):
    assert sonolora("cache", "prune", "0.0101").out == "removed 2 entries, 0.02 GB\n"
    assert sonolora("cache", "prune", "1").out == "removed 0 entries, 0.00 GB\n"
    assert sonolora("cache", "clear").out == "removed 1 entry, 0.01 GB\n"
    assert "entries    0, 0.00 GB" in sonolora("cache", "show").out


@pytest.mark.usefixtures("cache")
def test_a_wrong_limit_is_said_by_its_name(sonolora, monkeypatch):
    monkeypatch.setenv("SONOLORA_CACHE_GB", "plenty")
    done = sonolora("cache", "show")
    assert done.code == 2
    assert "SONOLORA_CACHE_GB: must be a size in GB, such as 20, or 0 for no cache; found 'plenty'" in done.err
