"""The safetensors format: one table of dtypes, one reader and one writer of headers, and a writer of whole files.

Written here and not by the library, whose metadata is in another order at each call: the same training must give the
same file, bit-identical.

Source of the format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolora.core.atomic_files import atomic_write

FLOAT_DTYPES: Mapping[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPES: Mapping[str, torch.dtype] = {
    **FLOAT_DTYPES,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 100 * 2**20
LENGTH_BYTES = 8  # little-endian, before the header
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in a file: its safetensors dtype name, its shape, and its bytes from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def data_start(first: bytes, size: int) -> int:
    """Where the tensors of a file of `size` bytes begin, from its first 8 bytes. ValueError if that is impossible."""
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    return LENGTH_BYTES + length


def parse_header(text: bytes) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Metadata and tensors from the JSON that follows the length.

    Raises ValueError, TypeError, KeyError or AttributeError when it is no table of tensors.
    """
    header, start = json.loads(text), LENGTH_BYTES + len(text)
    metadata = {key: _parsed(value) for key, value in header.pop("__metadata__", {}).items()}
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]), start + first, start + last)
    return metadata, tensors


def encode_header(table: Mapping[str, Any]) -> bytes:
    """The first bytes of a file: the length, and the JSON table padded to a multiple of 8."""
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def lay_out(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """The header for consecutive tensors (name, dtype name, shape, bytes), and where in the file each begins."""
    table: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offsets, at = {}, 0
    for name, dtype, shape, size in tensors:
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        offsets[name], at = at, at + size
    header = encode_header(table)
    return header, {name: len(header) + offset for name, offset in offsets.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically, one at a time; the file depends on nothing but its content. Raises `OutputError`."""
    # Wide types first, so that every tensor lies at a multiple of its element size.
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, _ = lay_out(((name, _NAMES[one.dtype], one.shape, one.nbytes) for name, one in order), metadata)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for _, tensor in order:
            data = tensor.detach().cpu().contiguous()
            file.write(data.reshape(-1).view(torch.uint8).numpy().data)


def _parsed(value: str) -> Any:
    """Metadata values are JSON where they can be (the config) and plain text otherwise (the version)."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, dict | list) else value
