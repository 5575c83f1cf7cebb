"""Keeps the server's paths out of what clients read: of each path in a text its last part remains."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sonolora


class HiddenPaths:
    """`hide(value)` for texts, and for lists and dictionaries of them.

    Paths are known by the folders they are in: those given, and the folders of the program, of Python, of the user and
    for temporary files. Names that come with the client's own data are not paths of the server and stay as they are.
    """

    def __init__(self, folders: Mapping[Path, str]) -> None:
        """`folders`: what each is called where a text names the folder itself."""
        usual = (Path(sonolora.__file__).parent, Path(sys.prefix), Path(tempfile.gettempdir()), Path.cwd(), *_home())
        words = {str(folder): folder.name for folder in usual}
        for folder, word in folders.items():
            words |= {str(folder): word, str(folder.resolve()): word}
        self._words = {folder: word for folder, word in words.items() if len(Path(folder).parts) > 1}
        longest_first = sorted(self._words, key=len, reverse=True)
        # Not in the middle of something else, such as a URL.
        self._pattern = re.compile(rf"(?<![\w.:/~-])({'|'.join(map(re.escape, longest_first))})(/[^\s'\"]*)?(?![\w-])")

    def hide(self, value: Any) -> Any:
        match value:
            case str():
                return self._pattern.sub(self._last_part, value)
            case dict():
                return {name: self.hide(item) for name, item in value.items()}
            case list() | tuple():
                return [self.hide(item) for item in value]
            case _:
                return value

    def _last_part(self, match: re.Match[str]) -> str:
        folder, rest = match.groups()
        return (rest or "").rstrip("/").rpartition("/")[2] or self._words[folder]


def _home() -> Iterable[Path]:
    try:
        return [Path.home()]
    except RuntimeError:  # it has none
        return []
