"""GGUF files: LTX-2.3 and Gemma 3 as the users of quantised models have them.

In: a file. Out: its header as that of a checkpoint, under the names that the safetensors files have, and the values of
its quantised blocks, dequantised by the `gguf` package.

    a transformer   the published names, with or without `model.diffusion_model.`; tables, biases and norms in float32
    Gemma 3         llama.cpp's names, and norms with 1 added, which is taken off again

The header is parsed here: the package's reader takes a quarter of a minute for the vocabulary of Gemma.

Source of the format: the GGUF specification (version 3), the key names that ComfyUI-GGUF reads, and llama.cpp's
converter of Gemma 3.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.weights.stored_tensor import StoredTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"GGUF"
GGUF = "GGUF "  # before the name of a quantised type, in `TensorInfo.dtype`
GEMMA = "gemma3"  # `general.architecture`
ARCHITECTURE = "general.architecture"
# Held to independent code in tests/ltx/weights/test_gguf_file.py; other types are refused.
_PLAIN = ("F32", "F16", "BF16")
QUANTISED = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS")
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # value types, as `struct` has them
_STRING, _ARRAY = 8, 9
_MAX_ARRAY = 64  # longer ones are skipped unless asked for: a vocabulary
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
_TABLE = "scale_shift_table"  # published in float32; what else a GGUF has in float32 was widened from bfloat16
_GEMMA_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA_OUTER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_ADDED_TO_NORMS = 1.0  # llama.cpp's Gemma multiplies by the norm's weight, the published one by 1 + weight


def is_gguf(path: Path) -> bool:
    """Whether a file is one, by its first bytes. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Metadata without long arrays, and the tensors under the names of safetensors files.

    Raises `CheckpointError` for a damaged file, one without the `gguf` package, and what is neither LTX nor Gemma.
    """
    fields, stored, start = _parse(path)
    architecture = str(fields.get(ARCHITECTURE, ""))
    if architecture == "clip" or str(fields.get("general.type")) == "mmproj":
        raise CheckpointError(
            f"{path}: this is the vision part of a text encoder (mmproj), which LTX-2.3 does not need; give the GGUF "
            "file of the language model"
        )
    if int(fields.get("split.count", 0)) > 1:
        raise CheckpointError(
            f"{path}: one of {fields['split.count']} files of a split GGUF; join them with `llama-gguf-split --merge` "
            "and give the result"
        )
    tensors: dict[str, TensorInfo] = {}
    for name, (number, stored_shape, offset) in stored.items():
        shape = tuple(fields.get(_ORIGINAL_SHAPE + name, stored_shape))
        kind, size = _type(path, name, number, shape)
        own = _gemma_name(name) if architecture == GEMMA else name
        is_norm = architecture == GEMMA and own.endswith("norm.weight")
        tensors[own] = StoredTensor(
            kind,
            shape,
            start + offset,
            start + offset + size,
            widened=kind == "F32" and _TABLE not in name and not is_norm,
            added=_ADDED_TO_NORMS if is_norm else 0.0,
        )
    end, actual = max((info.end for info in tensors.values()), default=start), path.stat().st_size
    if end > actual:
        raise CheckpointError(
            f"{path}: incomplete or damaged: the header describes {end:,} bytes, the file has {actual:,}. "
            "Copy or download it again."
        )
    metadata = {key: _as_json(value) for key, value in fields.items() if not key.startswith(_ORIGINAL_SHAPE)}
    return metadata, tensors


def read_fields(path: Path, names: Collection[str]) -> dict[str, Any]:
    """These metadata fields, arrays of any length included. Raises `CheckpointError`."""
    fields, _, _ = _parse(path, frozenset(names))
    return {name: fields[name] for name in names if name in fields}


def dequantise(codes: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """The values of whole blocks of a type such as `GGUF Q4_K`, in a row, as the `gguf` package computes them."""
    gguf = _package()
    kind = gguf.GGMLQuantizationType[dtype.removeprefix(GGUF)]
    values: NDArray[np.float32] = gguf.dequantize(codes.reshape(1, -1), kind)
    return values.reshape(-1)


def block_sizes(dtype: str) -> tuple[int, int]:
    """How many values a block of such a type has, and how many bytes."""
    gguf = _package()
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype.removeprefix(GGUF)]]
    return int(values), int(size)


def is_quantised(dtype: str) -> bool:
    """Whether a `TensorInfo.dtype` is one of GGUF's quantised types."""
    return dtype.startswith(GGUF)


@cache
def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError("GGUF files need the package gguf: pip install 'sonolora[gguf]'") from error
    return gguf


def _type(path: Path, name: str, number: int, shape: tuple[int, ...]) -> tuple[str, int]:
    """The dtype of a tensor as `TensorInfo` has it, and its bytes."""
    try:
        gguf = _package()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        raise CheckpointError(f"{path}: tensor {name} has a type ({number}) that is unknown here") from None
    if kind.name not in (*_PLAIN, *QUANTISED):
        raise CheckpointError(
            f"{path}: tensor {name} is stored as {kind.name}; of GGUF's types {', '.join((*_PLAIN, *QUANTISED))} are "
            "read. Use a file such as Q4_K_M or Q8_0"
        )
    values, size = gguf.GGML_QUANT_SIZES[kind]
    if (count := math.prod(shape)) % values:
        raise CheckpointError(f"{path}: tensor {name} has {count:,} values, not whole blocks of {values}")
    return (kind.name if kind.name in _PLAIN else GGUF + kind.name), count // values * size


def _gemma_name(name: str) -> str:
    """The name in Hugging Face's format; one that is not Gemma 3's stays as it is."""
    stem, _, leaf = name.rpartition(".")
    if stem in _GEMMA_OUTER:
        return f"model.{_GEMMA_OUTER[stem]}.{leaf}"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    return f"model.layers.{match[1]}.{_GEMMA_NAMES[match[2]]}.{leaf}" if match and match[2] in _GEMMA_NAMES else name


def _as_json(value: Any) -> Any:
    """ComfyUI's converters keep the safetensors header's config as a JSON text."""
    try:
        parsed = json.loads(value) if isinstance(value, str) and value.lstrip().startswith(("{", "[")) else value
    except ValueError:
        return value
    return parsed


def _parse(
    path: Path, wanted: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, tuple[int, tuple[int, ...], int]], int]:
    """Fields; type number, shape and offset of each tensor; where the data starts."""
    try:
        with path.open("rb") as file:
            return _Reader(file).header(wanted)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, UnicodeDecodeError, struct.error, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a readable GGUF file ({error}). Copy or download it again.") from error


class _Reader:
    """Takes little-endian values from a file in order."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def header(
        self, wanted: Collection[str]
    ) -> tuple[dict[str, Any], dict[str, tuple[int, tuple[int, ...], int]], int]:
        if self._bytes(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._take("I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3 in little-endian order")
        tensor_count, field_count = self._take("Q"), self._take("Q")
        if not tensor_count:
            raise ValueError("it has no tensors")
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            name = self._string()
            value = self._value(self._take("I"), keep=name in wanted)
            if value is not None:
                fields[name] = value
        tensors = {}
        for _ in range(tensor_count):
            name = self._string()
            dimensions = self._take("I")
            shape = tuple(self._take("Q") for _ in range(dimensions))
            kind, offset = self._take("I"), self._take("Q")
            if name in tensors:
                raise ValueError(f"two tensors are called {name}")
            tensors[name] = (kind, shape[::-1], offset)
        alignment = int(fields.get("general.alignment", 32))
        at = self.file.tell()
        return fields, tensors, at + -at % alignment

    def _value(self, kind: int, *, keep: bool) -> Any:
        """One value; None for a long array that is not to be kept."""
        if kind in _SCALARS:
            return self._take(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}")
        of, count = self._take("I"), self._take("Q")
        keep = keep or count <= _MAX_ARRAY
        if of in _SCALARS:
            data = self._bytes(count * struct.calcsize(_SCALARS[of]), keep=keep)
            return list(struct.unpack(f"<{count}{_SCALARS[of]}", data)) if keep else None
        values = (self._value(of, keep=keep) for _ in range(count))
        if keep:
            return list(values)
        _exhaust(values)
        return None

    def _take(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self._bytes(struct.calcsize(kind)))
        return value

    def _string(self) -> str:
        return self._bytes(self._take("Q")).decode("utf-8")

    def _bytes(self, count: int, *, keep: bool = True) -> bytes:
        if not keep:
            self.file.seek(count, 1)
            return b""
        if count > 1 << 30:
            raise ValueError(f"a value of {count:,} bytes")
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError("it ends within its header")
        return data


def _exhaust(values: Iterator[Any]) -> None:
    for _ in values:
        pass
