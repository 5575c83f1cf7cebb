"""Where a user's files go, by platform."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sonolora.core.user_folders import cache_folder, config_folder, data_folder

FOLDERS = {config_folder: "XDG_CONFIG_HOME", data_folder: "XDG_DATA_HOME", cache_folder: "XDG_CACHE_HOME"}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    for name in (*FOLDERS.values(), "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jo"))


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_xdg(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert [folder() for folder in FOLDERS] == [
        Path("/home/jo/.config/sonolora"), Path("/home/jo/.local/share/sonolora"), Path("/home/jo/.cache/sonolora"),
    ]  # fmt: skip
    for folder, name in FOLDERS.items():
        monkeypatch.setenv(name, "/elsewhere")
        assert folder() == Path("/elsewhere/sonolora")


def test_windows(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert data_folder() == Path("/home/jo/AppData/Local/sonolora")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert config_folder() == data_folder() == Path("/local/sonolora")
    assert cache_folder() == Path("/local/sonolora/cache")
