"""One transformer block: self-attention, text cross-attention, cross-attention between the streams, feed-forward.

In: the tokens of each stream present, and its `BlockInputs`. Out: the tokens after the block. A one-way video (one that
does not attend to the audio) goes through `forward_one_way` instead.

B batch, T tokens of either stream, N video tokens, L blocks, K modulation vectors, M of them a token can have (that of
the sample's sigma, and with kept tokens also that of sigma 0), S text tokens, A audio width, D stream width.
Source: the published model, reimplemented from its equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sonolora.ltx.model.layers import Attention, FeedForward, KeysValues
from sonolora.ltx.model.norms import modulate, modulated_norm
from sonolora.ltx.model.rope import Rotation
from sonolora.ltx.weights.transformer_config import StreamConfig, TransformerConfig

_SELF, _FEED_FORWARD, _TEXT = 0, 1, 2  # the order of (shift, scale, gate) among the 9 vectors of a stream


@dataclass(frozen=True)
class BlockInputs:
    """Conditioning of one stream. As made it is the same for all blocks; `with_tables` gives that of each block.

    Vectors come as (shift, scale) or (shift, scale, gate); with a block's tables added, scales are those to multiply
    by, and gates have the dtype of the stream.
    """

    rows_BMKD: Tensor  # 9 vectors, from the tokens' timesteps
    prompt_rows_BMKD: Tensor  # 2 vectors of each context, from its sample's sigma
    context_BSD: Tensor
    self_rotation: Rotation
    keep_BT1: Tensor | None = None  # tokens that take the second of M = 2 vectors
    cross_rows_BMKD: Tensor | None = None  # 4 vectors: (scale, shift) for audio-to-video, then for video-to-audio
    cross_gate_BMKD: Tensor | None = None  # gate of the update from the other stream, from that stream's sigma
    cross_rotation: Rotation | None = None
    gates_BMKD: Tensor | None = None
    context_index_B: Tensor | None = None  # as in `Stream`

    def of_tokens(self, vectors_BMD: Tensor) -> Tensor:
        """The vector of each token, (B, T or 1, D)."""
        if self.keep_BT1 is None or vectors_BMD.shape[1] == 1:
            return vectors_BMD
        return torch.where(self.keep_BT1, vectors_BMD[:, 1:], vectors_BMD[:, :1])


def with_tables(blocks: Sequence[Block], prefix: str, inputs: BlockInputs) -> list[BlockInputs]:
    """The inputs of each block: the tables of all blocks are added at once."""

    def added(table: str, rows_BMKD: Tensor, part: slice = slice(None)) -> Tensor:
        tables_LKD = torch.stack([getattr(block, table)[part] for block in blocks])
        return tables_LKD[:, None, None] + rows_BMKD

    rows = added(f"{prefix}scale_shift_table", inputs.rows_BMKD)
    prompt = added(f"{prefix}prompt_scale_shift_table", inputs.prompt_rows_BMKD)
    gates = rows[..., 2::3, :].to(inputs.context_BSD.dtype)
    rows[..., 1::3, :] += 1
    prompt[..., 1, :] += 1
    result = [
        replace(inputs, rows_BMKD=rows[index], prompt_rows_BMKD=prompt[index], gates_BMKD=gates[index])
        for index in range(len(blocks))
    ]
    cross_table = f"scale_shift_table_a2v_ca_{'audio' if prefix else 'video'}"
    if inputs.cross_rows_BMKD is not None:
        cross = added(cross_table, inputs.cross_rows_BMKD, slice(4))
        cross[..., ::2, :] += 1
        result = [replace(one, cross_rows_BMKD=cross[index]) for index, one in enumerate(result)]
    if inputs.cross_gate_BMKD is not None:
        cross_gates = added(cross_table, inputs.cross_gate_BMKD, slice(4, 5)).to(inputs.context_BSD.dtype)
        result = [replace(one, cross_gate_BMKD=cross_gates[index]) for index, one in enumerate(result)]
    return result


class Block(nn.Module):
    """One block; `video` and `one_way` select streams and cross-attentions as in `Transformer`."""

    def __init__(self, config: TransformerConfig, *, video: bool, one_way: bool) -> None:
        super().__init__()
        self.eps = config.eps
        audio = not (video and one_way)
        if audio:
            self._add_stream("audio_", config.audio, config)
        if video:
            self._add_stream("", config.video, config)
        a, v = config.audio, config.video
        attention = partial(Attention, heads=a.heads, head_dim=a.head_dim, gated=config.gated, eps=config.eps)
        if audio and video:
            self.audio_to_video_attn = attention(v.width, a.width)
        if video or one_way:
            side: Literal["both", "keys", "queries"] = "both" if not one_way else "keys" if video else "queries"
            self.video_to_audio_attn = attention(a.width, v.width, side=side)
        if audio and (video or one_way):
            self.scale_shift_table_a2v_ca_audio = nn.Parameter(torch.empty(5, a.width))
        if video:
            self.scale_shift_table_a2v_ca_video = nn.Parameter(torch.empty(5, v.width))

    def _add_stream(self, prefix: str, stream: StreamConfig, config: TransformerConfig) -> None:
        def attention(context_dim: int | None) -> Attention:
            return Attention(
                stream.width, context_dim, stream.heads, stream.head_dim, gated=config.gated, eps=config.eps
            )

        self.add_module(f"{prefix}attn1", attention(None))
        self.add_module(f"{prefix}attn2", attention(stream.context_dim))
        self.add_module(f"{prefix}ff", FeedForward(stream.width))
        self.register_parameter(f"{prefix}scale_shift_table", nn.Parameter(torch.empty(9, stream.width)))
        self.register_parameter(f"{prefix}prompt_scale_shift_table", nn.Parameter(torch.empty(2, stream.width)))

    def forward(
        self,
        audio: Tensor,
        video: Tensor | None,
        audio_inputs: BlockInputs,
        video_inputs: BlockInputs | None,
        video_kv: KeysValues | None = None,
        *,
        values_only: bool | Tensor,
        keep_video: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Update audio (B, T, A) and video tokens (B, N, D); `video_kv` replaces the tokens of a one-way video.

        Without `keep_video` the video is updated as far as the audio reads it, and not returned.
        """
        if video is None or video_inputs is None:
            audio = self._attention("audio_", audio, audio_inputs, values_only=values_only)
            if video_kv is not None:
                audio = self._video_to_audio(audio, audio_inputs, video_kv)
            return self._feed_forward("audio_", audio, audio_inputs), None
        video = self._attention("", video, video_inputs)
        audio = self._attention("audio_", audio, audio_inputs, values_only=values_only)
        # Each stream reads the other as it was before this exchange.
        video_kv = self._video_kv(video, video_inputs)
        if keep_video:
            video = self._audio_to_video(video, audio, video_inputs, audio_inputs)
        audio = self._video_to_audio(audio, audio_inputs, video_kv)
        audio = self._feed_forward("audio_", audio, audio_inputs)
        return audio, self._feed_forward("", video, video_inputs) if keep_video else None

    def forward_one_way(self, video: Tensor, inputs: BlockInputs) -> tuple[Tensor, KeysValues]:
        """Update the tokens (B, N, D) of a one-way video; also returns its keys and values for the audio."""
        (inputs,) = with_tables([self], "", inputs)
        video = self._attention("", video, inputs)
        return self._feed_forward("", video, inputs), self._video_kv(video, inputs)

    def _attention(self, prefix: str, x: Tensor, inputs: BlockInputs, *, values_only: bool | Tensor = False) -> Tensor:
        """Self-attention, then cross-attention to the text, whose context is modulated by the sample's sigma."""
        normed = self._normed(x, _SELF, inputs)
        attended = getattr(self, f"{prefix}attn1")(normed, rotation=inputs.self_rotation, values_only=values_only)
        x = _gated_residual(x, attended, _SELF, inputs)
        prompt_shift, prompt_scale = inputs.prompt_rows_BMKD.unbind(-2)
        context = modulate(inputs.context_BSD, prompt_scale, prompt_shift)
        text: Attention = getattr(self, f"{prefix}attn2")
        attended = text(self._normed(x, _TEXT, inputs), context, context_index_B=inputs.context_index_B)
        return _gated_residual(x, attended, _TEXT, inputs)

    def _feed_forward(self, prefix: str, x: Tensor, inputs: BlockInputs) -> Tensor:
        normed = self._normed(x, _FEED_FORWARD, inputs)
        return _gated_residual(x, getattr(self, f"{prefix}ff")(normed), _FEED_FORWARD, inputs)

    def _normed(self, x: Tensor, which: int, inputs: BlockInputs) -> Tensor:
        shift, scale = (inputs.of_tokens(inputs.rows_BMKD[..., 3 * which + row, :]) for row in (0, 1))
        return modulated_norm(x, scale, shift, self.eps)

    def _cross_normed(self, x: Tensor, inputs: BlockInputs, *, video_to_audio: bool) -> Tensor:
        """A stream as it takes part in the cross-attention of one direction."""
        assert inputs.cross_rows_BMKD is not None
        first = 2 if video_to_audio else 0
        scale, shift = (inputs.of_tokens(inputs.cross_rows_BMKD[..., first + row, :]) for row in (0, 1))
        return modulated_norm(x, scale, shift, self.eps)

    def _audio_to_video(
        self, video: Tensor, audio: Tensor, video_inputs: BlockInputs, audio_inputs: BlockInputs
    ) -> Tensor:
        """The video attends to the audio."""
        attention = self.audio_to_video_attn
        keys_values = attention.keys_values(
            self._cross_normed(audio, audio_inputs, video_to_audio=False), audio_inputs.cross_rotation
        )
        queries = self._cross_normed(video, video_inputs, video_to_audio=False)
        attended = attention.forward_with_kv(queries, keys_values, video_inputs.cross_rotation)
        return _cross_residual(video, attended, video_inputs)

    def _video_kv(self, video: Tensor, inputs: BlockInputs) -> KeysValues:
        """Keys and values of the video that the audio attends to."""
        normed = self._cross_normed(video, inputs, video_to_audio=True)
        return self.video_to_audio_attn.keys_values(normed, inputs.cross_rotation)

    def _video_to_audio(self, audio: Tensor, inputs: BlockInputs, video_kv: KeysValues) -> Tensor:
        """The audio attends to the video."""
        queries = self._cross_normed(audio, inputs, video_to_audio=True)
        attended = self.video_to_audio_attn.forward_with_kv(queries, video_kv, inputs.cross_rotation)
        return _cross_residual(audio, attended, inputs)


def _gated_residual(x: Tensor, update: Tensor, which: int, inputs: BlockInputs) -> Tensor:
    assert inputs.gates_BMKD is not None
    return torch.addcmul(x, update, inputs.of_tokens(inputs.gates_BMKD[..., which, :]))


def _cross_residual(x: Tensor, update: Tensor, inputs: BlockInputs) -> Tensor:
    assert inputs.cross_gate_BMKD is not None
    return torch.addcmul(x, update, inputs.cross_gate_BMKD[..., 0, :])
