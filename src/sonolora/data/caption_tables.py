"""Captions in a table, as Hugging Face's AudioFolder and VideoFolder have them: `metadata.csv` or `metadata.jsonl`.

In: a table with a column `file_name`, relative to its own folder, and one with text. Out: captions by file.
Source: https://huggingface.co/docs/datasets/audio_dataset.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sonolora.core.file_names import name_key
from sonolora.data.captions import tidy

MAX_BYTES = 64 << 20
_FILE_COLUMN = "file_name"
_TEXT_COLUMNS = ("text", "caption", "captions", "prompt", "description", "transcription", "sentence")


@dataclass(frozen=True)
class CaptionTable:
    """`captions`: by the key of a file's name without its folder, which is unique in an archive."""

    captions: Mapping[str, str]
    warnings: tuple[str, ...]


def file_key(name: str) -> str:
    """The key of a file in `CaptionTable.captions`."""
    return name_key(PurePosixPath(name.replace("\\", "/")).name)


def read_caption_table(path: Path) -> CaptionTable:
    """Read a table. Raises `ValueError` with the reason when it holds no captions."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes are too many for a table of captions (limit {MAX_BYTES:,})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8: save it as UTF-8") from None
    rows = list(_json_rows(text) if path.suffix.lower() == ".jsonl" else _csv_rows(text))
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    if _FILE_COLUMN not in columns:
        raise ValueError(f"has no column {_FILE_COLUMN}; it has {', '.join(columns) or 'none'}")
    text_column = next((column for column in _TEXT_COLUMNS if column in columns), None)
    if text_column is None:
        raise ValueError(
            f"has no column of captions, such as {', '.join(_TEXT_COLUMNS[:3])}; it has {', '.join(columns)}"
        )
    captions: dict[str, str] = {}
    warnings = []
    for line, row in rows:
        file, caption = row.get(_FILE_COLUMN), row.get(text_column)
        if not (isinstance(file, str) and file and isinstance(caption, str)):
            warnings.append(f"line {line} has no {_FILE_COLUMN} or no {text_column} in words, and is not used")
        elif (key := file_key(file)) in captions:
            warnings.append(f"line {line} is the second for {file}, and is not used")
        else:
            captions[key] = tidy(caption)
    return CaptionTable(captions, tuple(warnings))


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in reader:
            yield reader.line_num, {key.strip(): value for key, value in row.items() if key}
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        yield number, row
