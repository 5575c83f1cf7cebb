"""Where a user's files go: configuration, data and caches, by the conventions of the platform.

Linux and macOS: the XDG base directories. Windows: `%LOCALAPPDATA%`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NAME = "sonolora"


def config_folder() -> Path:
    """For settings that the user may edit or copy."""
    return _folder("XDG_CONFIG_HOME", ".config")


def data_folder() -> Path:
    """For what must not be lost."""
    return _folder("XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path:
    """For what can be computed or downloaded again."""
    return _folder("XDG_CACHE_HOME", ".cache")


def _folder(variable: str, usual: str) -> Path:
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / _NAME
        return local / "cache" if variable == "XDG_CACHE_HOME" else local
    return Path(os.environ.get(variable) or Path.home() / usual) / _NAME
