"""Gemma 3 as one file, as ComfyUI users have it: weights, and the tokenizer as a tensor of bytes.

In: a safetensors file with the language model and `spiece_model`, a SentencePiece model. Out: the config that a folder
in Hugging Face format would have, from the sizes of the tensors, and the tokenizer.

What sizes do not tell is that of Gemma 3 from 4B on (12B is the one of LTX-2.3): five layers with a window of 1,024
tokens to one with full attention, whose positions are divided by 8.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.verify import SPIECE_MODEL, gemma_prefix, read_spiece_model

if TYPE_CHECKING:
    from transformers import Gemma3TextConfig

_WINDOW, _PATTERN, _POSITION_DIVISOR = 1024, 6, 8.0


class SentencePieceTokenizer:
    """The interface of a tokenizer of the transformers library, as far as `Tokenizer` uses it."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=model)
        self.bos_token_id: int = self._processor.bos_id()
        self.unk_token_id: int = self._processor.unk_id()
        self.model_max_length = torch.iinfo(torch.int64).max

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Token ids without special tokens."""
        return {"input_ids": self._processor.encode(text)}


def open_tokenizer(path: Path) -> SentencePieceTokenizer:
    """The tokenizer in a file. Raises `CheckpointError` when it has none, or one that cannot be read."""
    model = read_spiece_model(Checkpoint.open(path))
    try:
        return SentencePieceTokenizer(model)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its {SPIECE_MODEL} is not a SentencePiece model") from error


def gemma_config(file: Checkpoint) -> Gemma3TextConfig:
    """The config of the language model. Raises `CheckpointError` when the file does not hold Gemma 3."""
    from transformers import Gemma3TextConfig  # takes a second to import

    prefix = gemma_prefix(file)

    def rows(name: str) -> int:
        return file.tensors[f"{prefix}{name}"].shape[0]

    try:
        vocabulary, width = file.tensors[f"{prefix}embed_tokens.weight"].shape
        head_dim = rows("layers.0.self_attn.q_norm.weight")
        layers = 1 + max(
            int(name.removeprefix(f"{prefix}layers.").split(".")[0]) for name in file.names(f"{prefix}layers.")
        )
        return Gemma3TextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=rows("layers.0.mlp.up_proj.weight"),
            num_hidden_layers=layers,
            num_attention_heads=rows("layers.0.self_attn.q_proj.weight") // head_dim,
            num_key_value_heads=rows("layers.0.self_attn.k_proj.weight") // head_dim,
            head_dim=head_dim,
            query_pre_attn_scalar=head_dim,
            sliding_window=_WINDOW,
            layer_types=["sliding_attention" if (i + 1) % _PATTERN else "full_attention" for i in range(layers)],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": _POSITION_DIVISOR, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file.path}: not a text encoder of Gemma 3 ({error} is missing)") from error
