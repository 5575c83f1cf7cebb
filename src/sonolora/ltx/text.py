"""From prompts to the text contexts that the transformer attends to.

In: prompts. Out: for each stream a context of fixed length. On the way the tokens go through a Gemma 3
language model; all its hidden states, normed and flattened, are projected to the stream's width; a connector
mixes them with learned registers, which fill the places behind the prompt's tokens.

L hidden states, B batch, S text places, E width of the text encoder, D width of the stream's context.
Source: the published model, reimplemented from its equations; Gemma 3 is that of transformers. Held to the
publisher's own outputs by tests/ltx/test_text.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from sonolora.errors import CheckpointError
from sonolora.ltx.checkpoint import Checkpoint, load_module
from sonolora.ltx.config import ConnectorConfig, TransformerConfig
from sonolora.ltx.layers import Attention, FeedForward, rms
from sonolora.ltx.rope import Rotation, rotation

PUBLISHED_TOKENS = 1024
_STATES_EPS = 1e-6
_PROJECTOR_PARTS = {
    "aggregate_embed.": "text_embedding_projection.{}_aggregate_embed.",
    "connector.": "model.diffusion_model.{}_embeddings_connector.",
}
_MODEL_TYPES = ("gemma3", "gemma3_text")


class Connector(nn.Module):
    """A bidirectional transformer over the projected tokens and the registers behind them."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.learnable_registers = nn.Parameter(torch.empty(config.registers, config.width))
        self.transformer_1d_blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Contexts (B, S, D). `mask` is true for tokens; S must be a multiple of the number of registers."""
        places = x_BSD.shape[1]
        config = self.config
        # Tokens move to the front in their order; the register of a place depends on the place alone.
        order_BS = torch.argsort(~mask_BS, dim=1, stable=True)
        tokens = x_BSD.gather(1, order_BS[..., None].expand_as(x_BSD))
        registers = self.learnable_registers.repeat(places // config.registers, 1).to(tokens.dtype)
        at = torch.arange(places, device=x_BSD.device)
        x = torch.where((at < mask_BS.sum(1, keepdim=True))[..., None], tokens, registers)
        turn = rotation(
            at.expand(1, 1, -1),
            (config.max_position,),
            config.width,
            config.heads,
            config.theta,
            float64=config.float64_frequencies,
        )
        for block in self.transformer_1d_blocks:
            x = block(x, turn)
        return rms(x, config.eps)


class _Block(nn.Module):
    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn1 = Attention(
            config.width, config.width, config.heads, config.head_dim, gated=config.gated, eps=config.eps
        )
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:
        normed = rms(x, self.eps)
        x = x + self.attn1(normed, normed, turn, turn)
        return x + self.ff(rms(x, self.eps))  # type: ignore[no-any-return]


class TextProjector(nn.Module):
    """From the text encoder's hidden states to the context of one stream."""

    def __init__(self, states: int, text_channels: int, connector: ConnectorConfig) -> None:
        super().__init__()
        self.states, self.text_channels = states, text_channels
        self.scale = math.sqrt(connector.width / text_channels)
        self.aggregate_embed = nn.Linear(text_channels * states, connector.width)
        self.connector = Connector(connector)

    def forward(self, states_LBSE: Tensor, mask_BS: Tensor) -> Tensor:
        """Contexts (B, S, D). `mask` is true for tokens, wherever the padding is; S as for `Connector`."""
        normed_BSEL = rms(states_LBSE.float(), _STATES_EPS).permute(1, 2, 3, 0)
        features = (normed_BSEL.flatten(2) * self.scale).to(self.aggregate_embed.weight.dtype)
        return self.connector(self.aggregate_embed(features), mask_BS)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TextContext:
    """What one prompt means to the transformer."""

    audio: Tensor  # (S, D of the audio stream)
    video: Tensor | None  # (S, D of the video stream)


@dataclass(frozen=True)
class Tokenizer:
    """Texts to tokens. `max_tokens`: places of a context, and the longest text that is read to its end."""

    inner: Any
    max_tokens: int

    def tokens(self, text: str) -> list[int]:
        """Begin-of-sequence and the words; no end-of-sequence and no chat template."""
        words = self.inner(text.strip(), add_special_tokens=False, verbose=False)["input_ids"]
        return [self.inner.bos_token_id, *words]


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer, language model and projectors of one base."""

    tokenizer: Tokenizer
    language_model: nn.Module
    audio: TextProjector
    video: TextProjector | None

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> list[TextContext]:
        """The context of each prompt, one after the other, on the model's device."""
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: str) -> TextContext:
        device = self.audio.aggregate_embed.weight.device
        tokens_BS = torch.tensor([self.tokenizer.tokens(prompt)[: self.tokenizer.max_tokens]], device=device)
        output = self.language_model(input_ids=tokens_BS, use_cache=False, output_hidden_states=True)
        count = tokens_BS.shape[1]
        states_LBSE = F.pad(torch.stack(output.hidden_states), (0, 0, 0, self.tokenizer.max_tokens - count))
        mask_BS = torch.arange(self.tokenizer.max_tokens, device=device)[None] < count
        return TextContext(
            audio=self.audio(states_LBSE, mask_BS)[0],
            video=None if self.video is None else self.video(states_LBSE, mask_BS)[0],
        )


def load_text_encoder(
    checkpoint: Checkpoint, folder: Path, *, video: bool, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """Read the language model from a folder of Hugging Face's form, and its projectors from the checkpoint.

    The folder may hold the language model alone or the whole multimodal Gemma 3. Nothing is downloaded.
    Raises `CheckpointError` when the folder is incomplete, of another model, or does not fit the checkpoint.
    """
    tokenizer = load_tokenizer(checkpoint, folder)
    language_model = _load_language_model(folder, dtype)
    audio = load_projector(checkpoint, "audio", device=device, dtype=dtype)
    states, width = language_model.config.num_hidden_layers + 1, language_model.config.hidden_size
    if (states, width) != (audio.states, audio.text_channels):
        raise CheckpointError(
            f"{folder}: this text encoder gives {states} hidden states of width {width}; {checkpoint.path.name} needs "
            f"{audio.states} of width {audio.text_channels}"
        )
    return TextEncoder(
        tokenizer,
        language_model.to(device),
        audio=audio,
        video=load_projector(checkpoint, "video", device=device, dtype=dtype) if video else None,
    )


def load_tokenizer(checkpoint: Checkpoint, folder: Path) -> Tokenizer:
    """Read the tokenizer of a base alone. Raises `CheckpointError` when it is missing or does not fit."""
    # Without it transformers would make up a tokenizer that knows no words.
    if not (folder / "tokenizer.json").is_file():
        raise _unreadable(folder, "there is no tokenizer.json")
    try:
        inner = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    registers = TransformerConfig.from_header(checkpoint.section("transformer")).audio_connector.registers
    max_tokens = min(PUBLISHED_TOKENS, inner.model_max_length)
    if max_tokens % registers:
        raise CheckpointError(
            f"{folder}: its longest text, {max_tokens} tokens, is no multiple of the {registers} registers of "
            f"{checkpoint.path.name}"
        )
    return Tokenizer(inner, max_tokens)


def load_projector(
    checkpoint: Checkpoint, stream: Literal["audio", "video"], *, device: torch.device, dtype: torch.dtype
) -> TextProjector:
    """Read the projection and the connector of one stream. Raises `CheckpointError` when they do not fit."""
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    weight = checkpoint.tensors.get(projector_file_name(stream, "aggregate_embed.weight"))
    states = weight.shape[1] // config.text_channels if weight is not None else 0
    with torch.device("meta"):
        connector = config.audio_connector if stream == "audio" else config.video_connector
        module = TextProjector(states, config.text_channels, connector)
    load_module(
        module,
        checkpoint,
        file_name=partial(projector_file_name, stream),
        claims={name for part in _PROJECTOR_PARTS for name in checkpoint.names(projector_file_name(stream, part))},
        device=device,
        dtype=dtype,
    )
    return module


def projector_file_name(stream: str, name: str) -> str:
    """The published name of a tensor of the `TextProjector` of a stream, "audio" or "video"."""
    part = next(part for part in _PROJECTOR_PARTS if name.startswith(part))
    return _PROJECTOR_PARTS[part].format(stream) + name.removeprefix(part)


def _load_language_model(folder: Path, dtype: torch.dtype) -> Any:
    disable_progress_bar()
    try:
        model_type = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if model_type not in _MODEL_TYPES:
            raise CheckpointError(f"{folder}: a text encoder of type {model_type!r}; LTX-2.3 needs Gemma 3")
        model, found = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    if found["missing_keys"] or found["mismatched_keys"]:
        first = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))[0]
        raise CheckpointError(f"{folder}: the text encoder lacks tensors that fit, for instance {first}")
    model = getattr(model, "language_model", model)  # without the eyes of the multimodal one
    model.requires_grad_(False)
    model.eval()
    return model


def _unreadable(folder: Path, reason: object) -> CheckpointError:
    return CheckpointError(f"{folder}: not a readable text encoder: {reason}")
