"""From prompts to the text contexts that the transformer attends to.

In: prompts. Out: for each stream a context of fixed length. On the way the tokens go through a Gemma 3
language model; all its hidden states, normed and flattened, are projected to the stream's width; a connector
mixes them with learned registers, which fill the places behind the prompt's tokens. The projection is summed up state
by state, so that none of them has to be kept.

L hidden states, B batch, S text places, E width of the text encoder, D width of the stream's context.
Source: the published model, reimplemented from its equations; Gemma 3 is that of transformers. Held to the
publisher's own outputs by tests/ltx/test_text.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer

from sonolora.errors import CheckpointError
from sonolora.ltx.checkpoint import Checkpoint, check_module, let_go_after, load_module
from sonolora.ltx.config import ConnectorConfig, TransformerConfig
from sonolora.ltx.layers import Attention, FeedForward, rms
from sonolora.ltx.rope import Rotation, rotation

if TYPE_CHECKING:
    from sonolora.ltx.language_model import LanguageModel

PUBLISHED_TOKENS = 1024
_STATES_EPS = 1e-6
_PROJECTOR_PARTS = {
    "aggregate_embed.": "text_embedding_projection.{}_aggregate_embed.",
    "connector.": "model.diffusion_model.{}_embeddings_connector.",
}

Stream: TypeAlias = Literal["audio", "video"]


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


class Aggregate(nn.Linear):
    """One projection of all hidden states of a token: the sum of what each contributes, so that they come singly."""

    def __init__(self, states: int, text_channels: int, width: int) -> None:
        super().__init__(text_channels * states, width)
        self.states, self.text_channels = states, text_channels
        self.scale = math.sqrt(width / text_channels)

    def part(self, index: int) -> Callable[[Tensor], Tensor]:
        """What the state of that index contributes, from its values (..., E): (..., D) in float32."""
        weight_DE = self.weight[:, index :: self.states].float()

        def contribute(state: Tensor) -> Tensor:
            features = (rms(state.float(), _STATES_EPS) * self.scale).to(self.weight.dtype)
            return F.linear(features.float(), weight_DE)

        return contribute

    def complete(self, parts_BSD: Tensor) -> Tensor:
        """The projection, from the sum of all parts."""
        return (parts_BSD + self.bias.float()).to(self.weight.dtype)

    def forward(self, states_LBSE: Tensor) -> Tensor:
        """(B, S, D) of states that are all there."""
        parts = self.part(0)(states_LBSE[0])
        for index in range(1, self.states):
            parts = parts + self.part(index)(states_LBSE[index])
        return self.complete(parts)


class TextProjector(nn.Module):
    """From the text encoder's hidden states to the context of one stream."""

    def __init__(self, states: int, text_channels: int, connector: ConnectorConfig) -> None:
        super().__init__()
        self.aggregate_embed = Aggregate(states, text_channels, connector.width)
        self.connector = Connector(connector)

    def forward(self, states_LBSE: Tensor, mask_BS: Tensor) -> Tensor:
        """Contexts (B, S, D). `mask` is true for tokens, wherever the padding is; S as for `Connector`."""
        return self.connector(self.aggregate_embed(states_LBSE), mask_BS)  # type: ignore[no-any-return]


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
    """Tokenizer, language model and projectors of one base. Weights are in memory while they are at work.

    First come the language model, layer by layer, and the projections of its states; then the connectors.
    """

    tokenizer: Tokenizer
    language_model: LanguageModel
    checkpoint: Checkpoint
    projectors: Mapping[Stream, TextProjector]  # on the meta device

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        advance: Callable[[str], None] = lambda note: None,  # noqa: ARG005
    ) -> list[TextContext]:
        """The context of each prompt, on the host. A context does not depend on the prompts beside it.

        All weights are read at each call: call it once for all prompts. `advance` is told each hidden state.
        """
        tokens = [self.tokenizer.tokens(prompt)[: self.tokenizer.max_tokens] for prompt in prompts]
        features = self._features(tokens, advance)
        contexts = {stream: self._connected(stream, of_stream) for stream, of_stream in features.items()}
        video = contexts.get("video", [None] * len(prompts))
        return [TextContext(*both) for both in zip(contexts["audio"], video, strict=True)]

    def _features(self, tokens: list[list[int]], advance: Callable[[str], None]) -> dict[Stream, list[Tensor]]:
        """The projection of every prompt (1, n, D), for each stream."""
        model = self.language_model
        aggregates = {stream: projector.aggregate_embed for stream, projector in self.projectors.items()}
        sums = {
            stream: [torch.zeros(1, len(prompt), aggregate.out_features, device=model.host) for prompt in tokens]
            for stream, aggregate in aggregates.items()
        }
        parts = dict[Stream, Callable[[Tensor], Tensor]]()
        with ExitStack() as stack:
            for stream, aggregate in aggregates.items():
                stack.enter_context(self._loaded(aggregate, stream, "aggregate_embed."))
            for index, which, state in model.states(tokens):
                if which == 0:
                    parts = {stream: aggregate.part(index) for stream, aggregate in aggregates.items()}
                    advance(f"texts: hidden state {index + 1} of {model.state_count}")
                for stream, part in parts.items():
                    sums[stream][which] += part(state).to(model.host)
            return {
                stream: [aggregate.complete(one.to(model.device)).to(model.host) for one in sums[stream]]
                for stream, aggregate in aggregates.items()
            }

    def _connected(self, stream: Stream, features: list[Tensor]) -> list[Tensor]:
        """The context of every prompt (S, D)."""
        model, places = self.language_model, self.tokenizer.max_tokens
        connector, contexts = self.projectors[stream].connector, []
        with self._loaded(connector, stream, "connector."):
            for x in features:
                count = x.shape[1]
                x = F.pad(x.to(model.device), (0, 0, 0, places - count))
                mask_BS = torch.arange(places, device=model.device)[None] < count
                contexts.append(connector(x, mask_BS)[0].to(model.host))
        return contexts

    @contextmanager
    def _loaded(self, module: nn.Module, stream: Stream, part: str) -> Iterator[None]:
        """Within it, this part of a projector has its tensors."""
        prefix, model = projector_file_name(stream, part), self.language_model
        claims = self.checkpoint.names(prefix)
        with let_go_after(module):
            load_module(
                module,
                self.checkpoint,
                file_name=prefix.__add__,
                claims=claims,
                device=model.device,
                dtype=model.dtype,
            )
            yield


def load_text_encoder(
    checkpoint: Checkpoint, folder: Path, *, video: bool, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """Open the language model's folder, of Hugging Face's form, and hold it and the projectors to what is needed.

    The folder may hold the language model alone or the whole multimodal Gemma 3. Nothing is downloaded, and of the
    models only headers are read. Raises `CheckpointError` when the folder is incomplete, of another model, or does not
    fit the checkpoint, and when the checkpoint's projectors do not fit its header.
    """
    from sonolora.ltx.language_model import open_language_model  # takes a second, which tokenizing need not wait for

    tokenizer = load_tokenizer(checkpoint, folder)
    language_model = open_language_model(folder, device=device, dtype=dtype)
    projectors = empty_projectors(checkpoint, video=video)
    for stream, projector in projectors.items():
        check_module(projector, checkpoint, **_names(checkpoint, stream))
        aggregate = projector.aggregate_embed
        gives = language_model.state_count, language_model.config.hidden_size
        if gives != (aggregate.states, aggregate.text_channels):
            raise CheckpointError(
                f"{folder}: this text encoder gives {gives[0]} hidden states of width {gives[1]}; "
                f"{checkpoint.path.name} needs {aggregate.states} of width {aggregate.text_channels}"
            )
    return TextEncoder(tokenizer, language_model, checkpoint, projectors)


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
    checkpoint: Checkpoint, stream: Stream, *, device: torch.device, dtype: torch.dtype
) -> TextProjector:
    """Read the projection and the connector of one stream. Raises `CheckpointError` when they do not fit."""
    projector = empty_projectors(checkpoint, video=True)[stream]
    load_module(projector, checkpoint, **_names(checkpoint, stream), device=device, dtype=dtype)
    return projector


def empty_projectors(checkpoint: Checkpoint, *, video: bool) -> dict[Stream, TextProjector]:
    """Those of both streams or of audio alone, on the meta device."""
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    connectors: dict[Stream, ConnectorConfig] = {"audio": config.audio_connector}
    if video:
        connectors["video"] = config.video_connector
    projectors = {}
    for stream, connector in connectors.items():
        weight = checkpoint.tensors.get(projector_file_name(stream, "aggregate_embed.weight"))
        states = weight.shape[1] // config.text_channels if weight is not None else 0
        with torch.device("meta"):
            projectors[stream] = TextProjector(states, config.text_channels, connector)
    return projectors


def projector_file_name(stream: str, name: str) -> str:
    """The published name of a tensor of the `TextProjector` of a stream, "audio" or "video"."""
    part = next(part for part in _PROJECTOR_PARTS if name.startswith(part))
    return _PROJECTOR_PARTS[part].format(stream) + name.removeprefix(part)


def _names(checkpoint: Checkpoint, stream: Stream) -> dict[str, Any]:
    """How `load_module` finds a whole projector."""
    claims = {name for part in _PROJECTOR_PARTS for name in checkpoint.names(projector_file_name(stream, part))}
    return {"file_name": partial(projector_file_name, stream), "claims": claims}


def _unreadable(folder: Path, reason: object) -> CheckpointError:
    return CheckpointError(f"{folder}: not a readable text encoder: {reason}")
