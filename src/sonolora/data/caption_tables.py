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
from sonolora.data.captions import decode_text, refuse_other_formats, tidy

MAX_BYTES = 64 << 20
_FILE_COLUMN = "file_name"
_REST = "\0"  # key of the cells beyond the last column
_DELIMITERS = ",;\t"  # a spreadsheet writes semicolons where numbers have decimal commas
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
    text, warnings = decode_text(path.read_bytes())
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
    for line, row in rows:
        file, caption = row.get(_FILE_COLUMN), row.get(text_column)
        if not (isinstance(file, str) and file and file.isprintable() and isinstance(caption, str)):
            warnings.append(f"line {line} has no {_FILE_COLUMN} or no {text_column} in words, and is not used")
        elif (key := file_key(file)) in captions:
            warnings.append(f"line {line} is the second for {file}, and is not used")
        elif fault := _caption_fault(row, caption):
            warnings.append(f"line {line}, for {file}, is not used: {fault}")
        else:
            captions[key] = tidy(caption)
    return CaptionTable(captions, tuple(warnings))


def _caption_fault(row: Mapping[str, Any], caption: str) -> str:
    if _REST in row:
        return "it has more cells than the first line has columns. Put a caption that holds commas into quotes"
    try:
        refuse_other_formats(caption)
    except ValueError as error:
        return f"its caption: {error}"
    return ""


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header = (text.splitlines() or [""])[0]
    cells = {mark: [cell.strip(' "') for cell in header.split(mark)] for mark in _DELIMITERS}
    delimiter = next((mark for mark, names in cells.items() if _FILE_COLUMN in names), ",")
    try:
        reader = csv.DictReader(
            io.StringIO(text, newline=""), restkey=_REST, delimiter=delimiter, skipinitialspace=True, strict=True
        )
        for row in reader:
            yield reader.line_num, {key.strip(): value for key, value in row.items() if key}
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):  # other ends of a line may stand within a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON, as each line must be by itself: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        yield number, row
