"""The tokenizer in a GGUF file of Gemma 3, as the SentencePiece model that it was made from.

In: the vocabulary in the file's metadata. Out: the bytes of a SentencePiece model with the same tokens.

llama.cpp's converter changes two things, which are taken back: spaces in tokens that are matched as they are, which
SentencePiece writes as U+2581, and the type of special tokens that occur in texts, such as <start_of_turn>.

Source of the field numbers: sentencepiece_model.proto. Written here, so that no protobuf package is needed and the
bytes depend on the file alone.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.gguf_file import read_fields

_PREFIX = "tokenizer.ggml."
_FIELDS = (
    *("model", "tokens", "scores", "token_type", "add_space_prefix"),
    *("padding_token_id", "eos_token_id", "bos_token_id", "unknown_token_id"),
)
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # types of tokens, the same numbers in both formats
_SPACE = "▁"
_BPE = 2
_GEMMA_IDS = (0, 1, 2, 3)  # pad, eos, bos, unk


def spiece_model(path: Path) -> bytes:
    """The SentencePiece model. Raises `CheckpointError` when the file has none of Gemma's kind."""
    found = read_fields(path, [_PREFIX + name for name in _FIELDS])
    fields = {key.removeprefix(_PREFIX): value for key, value in found.items()}
    tokens, scores, types = (fields.get(name) or [] for name in ("tokens", "scores", "token_type"))
    if fields.get("model") != "llama" or not tokens or not len(tokens) == len(scores) == len(types):
        raise CheckpointError(
            f"{path}: no SentencePiece vocabulary in its metadata ({_PREFIX}tokens, scores, token_type); use a GGUF "
            "file of Gemma 3 12B as llama.cpp converts it"
        )
    names = ("padding_token_id", "eos_token_id", "bos_token_id", "unknown_token_id")
    pad, eos, bos, unknown = (int(fields.get(name, usual)) for name, usual in zip(names, _GEMMA_IDS, strict=True))
    if not max(bos, unknown) < len(tokens):
        raise CheckpointError(f"{path}: {_PREFIX}bos_token_id or unknown_token_id is beyond its {len(tokens)} tokens")
    pieces = []
    for index, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        if index == unknown:
            kind = _UNKNOWN
        elif kind == _CONTROL and index not in (pad, eos, bos):
            kind = _USER_DEFINED
        piece = token.replace(" ", _SPACE) if kind == _USER_DEFINED else token
        pieces.append(_message(1, _text(1, piece) + b"\x15" + struct.pack("<f", score) + _number(3, kind)))
    trainer = [
        _number(3, _BPE),
        _number(4, len(tokens)),
        _number(35, int(_BYTE in types)),
        *(_number(field, value) for field, value in ((40, unknown), (41, bos), (42, eos), (43, pad))),
        *(_text(field, tokens[i]) for field, i in ((45, unknown), (46, bos), (47, eos), (48, pad)) if i < len(tokens)),
    ]
    normalizer = [_text(1, "identity"), _number(3, int(bool(fields.get("add_space_prefix", False)))), _number(4, 0)]
    return b"".join([*pieces, _message(2, b"".join(trainer)), _message(3, b"".join(normalizer))])


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: Any) -> bytes:
    return _message(field, str(value).encode())
