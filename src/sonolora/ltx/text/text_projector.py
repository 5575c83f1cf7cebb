"""Projects the language model's hidden states to the text context of one stream.

In: all hidden states of a prompt's tokens, at once or one by one. Out: the stream's context of fixed length. The states
are normed, flattened and projected to the stream's width; a connector mixes them with learned registers, which fill the
positions after the prompt's tokens. The projection is a sum over the states, so states need not be kept.

L hidden states, B batch, S text positions, E width of the text encoder, D width of the stream's context.
Source: the published model, reimplemented from its equations. tests/ltx/text/test_text_encoder.py compares it with
outputs of the publisher's code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.model.layers import Attention, FeedForward
from sonolora.ltx.model.norms import rms
from sonolora.ltx.model.rope import Rotation, rotation
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module
from sonolora.ltx.weights.transformer_config import ConnectorConfig, TransformerConfig

_STATES_EPS = 1e-6
_PROJECTOR_PARTS = {
    "aggregate_embed.": "text_embedding_projection.{}_aggregate_embed.",
    "connector.": "model.diffusion_model.{}_embeddings_connector.",
}

Stream: TypeAlias = Literal["audio", "video"]


class Connector(nn.Module):
    """A bidirectional transformer over the projected tokens and the registers after them."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.learnable_registers = nn.Parameter(torch.empty(config.registers, config.width))
        self.transformer_1d_blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Contexts (B, S, D). `mask` is true for tokens; S must be a multiple of the number of registers."""
        length = x_BSD.shape[1]
        config = self.config
        # Tokens move to the front in order; which register fills a position depends on the position only.
        order_BS = torch.argsort(~mask_BS, dim=1, stable=True)
        tokens = x_BSD.gather(1, order_BS[..., None].expand_as(x_BSD))
        registers = self.learnable_registers.repeat(length // config.registers, 1).to(tokens.dtype)
        positions = torch.arange(length, device=x_BSD.device)
        x = torch.where((positions < mask_BS.sum(1, keepdim=True))[..., None], tokens, registers)
        token_rotation = rotation(
            positions.expand(1, 1, -1),
            (config.max_position,),
            config.width,
            config.heads,
            config.theta,
            float64=config.float64_frequencies,
        )
        for block in self.transformer_1d_blocks:
            x = block(x, token_rotation)
        return rms(x, config.eps)


class _Block(nn.Module):
    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn1 = Attention(config.width, None, config.heads, config.head_dim, gated=config.gated, eps=config.eps)
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.attn1(rms(x, self.eps), rotation=rotation)
        return x + self.ff(rms(x, self.eps))  # type: ignore[no-any-return]


class Aggregate(nn.Linear):
    """One linear projection of all hidden states of a token, computed as a sum over the states."""

    def __init__(self, states: int, text_channels: int, width: int) -> None:
        super().__init__(text_channels * states, width)
        self.states, self.text_channels = states, text_channels
        self.scale = math.sqrt(width / text_channels)

    def projection_of(self, index: int) -> Callable[[Tensor], Tensor]:
        """Maps the hidden state with this index (..., E) to its share of the projection (..., D), float32."""
        weight_DE = self.weight[:, index :: self.states].float()

        def project(state: Tensor) -> Tensor:
            features = (rms(state.float(), _STATES_EPS) * self.scale).to(self.weight.dtype)
            return F.linear(features.float(), weight_DE)

        return project

    def add_bias(self, sum_BSD: Tensor) -> Tensor:
        """The projection, given the sum of the shares of all states."""
        return (sum_BSD + self.bias.float()).to(self.weight.dtype)

    def forward(self, states_LBSE: Tensor) -> Tensor:
        """The projection (B, S, D) of all states at once."""
        total = self.projection_of(0)(states_LBSE[0])
        for index in range(1, self.states):
            total = total + self.projection_of(index)(states_LBSE[index])
        return self.add_bias(total)


class TextProjector(nn.Module):
    """Hidden states of the text encoder -> text context of one stream."""

    def __init__(self, states: int, text_channels: int, connector: ConnectorConfig) -> None:
        super().__init__()
        self.aggregate_embed = Aggregate(states, text_channels, connector.width)
        self.connector = Connector(connector)

    def forward(self, states_LBSE: Tensor, mask_BS: Tensor) -> Tensor:
        """Contexts (B, S, D). `mask` is true for tokens, with padding on any side; S as for `Connector`."""
        return self.connector(self.aggregate_embed(states_LBSE), mask_BS)  # type: ignore[no-any-return]


def load_projector(
    checkpoint: Checkpoint, stream: Stream, *, device: torch.device, dtype: torch.dtype
) -> TextProjector:
    """Load the projection and the connector of one stream. Raises `CheckpointError` when they do not fit."""
    projector = empty_projectors(checkpoint, video=True)[stream]
    load_module(projector, checkpoint, **projector_names(checkpoint, stream), device=device, dtype=dtype)
    return projector


def empty_projectors(checkpoint: Checkpoint, *, video: bool) -> dict[Stream, TextProjector]:
    """The projectors of both streams or of audio alone, on the meta device."""
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    connectors: dict[Stream, ConnectorConfig] = {"audio": config.audio_connector}
    if video:
        connectors["video"] = config.video_connector
    projectors = {}
    for stream, connector in connectors.items():
        weight = checkpoint.tensors.get(projector_checkpoint_name(stream, "aggregate_embed.weight"))
        states = weight.shape[1] // config.text_channels if weight is not None else 0
        with torch.device("meta"):
            projectors[stream] = TextProjector(states, config.text_channels, connector)
    return projectors


def projector_checkpoint_name(stream: str, name: str) -> str:
    """The published name of a tensor of a stream's `TextProjector`; `stream` is "audio" or "video"."""
    part = next(part for part in _PROJECTOR_PARTS if name.startswith(part))
    return _PROJECTOR_PARTS[part].format(stream) + name.removeprefix(part)


def projector_names(checkpoint: Checkpoint, stream: Stream) -> dict[str, Any]:
    """Arguments by which `load_module` loads a whole projector."""
    names = {name for part in _PROJECTOR_PARTS for name in checkpoint.names(projector_checkpoint_name(stream, part))}
    return {"checkpoint_name": partial(projector_checkpoint_name, stream), "names": names}
