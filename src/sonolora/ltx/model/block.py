"""One transformer block: self-attention, text cross-attention, cross-attention between the streams, feed-forward.

In: the tokens of each stream present, and its `BlockInputs`, which are the same for all blocks. Out: the tokens after
the block. A one-way video (one that does not attend to the audio) goes through `forward_one_way` instead.

B batch, T tokens of either stream, N video tokens, K modulation vectors, S text tokens, A audio width, D stream width.
Source: the published model, reimplemented from its equations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sonolora.ltx.model.layers import Attention, FeedForward, KeysValues, rms
from sonolora.ltx.model.rope import Rotation
from sonolora.ltx.weights.transformer_config import StreamConfig, TransformerConfig


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * (1 + scale) + shift, in the dtype of `x`."""
    return torch.addcmul(shift, x, 1 + scale).to(x.dtype)


@dataclass(frozen=True)
class BlockInputs:
    """Conditioning of one stream, the same for all blocks."""

    rows_BTKD: Tensor  # 9 modulation vectors, from the tokens' timesteps
    prompt_rows_BTKD: Tensor  # 2 vectors, from the sample's sigma
    context_BSD: Tensor
    self_rotation: Rotation
    cross_rows_BTKD: Tensor | None = None  # 4 vectors: (scale, shift) for audio-to-video, then for video-to-audio
    cross_gate_BTD: Tensor | None = None  # gate of the update from the other stream, from that stream's sigma
    cross_rotation: Rotation | None = None


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
        def attention(context_dim: int) -> Attention:
            return Attention(
                stream.width, context_dim, stream.heads, stream.head_dim, gated=config.gated, eps=config.eps
            )

        self.add_module(f"{prefix}attn1", attention(stream.width))
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
    ) -> tuple[Tensor, Tensor | None]:
        """Update audio (B, T, A) and video tokens (B, N, D); `video_kv` replaces the tokens of a one-way video."""
        if video is None or video_inputs is None:
            audio = self._attention("audio_", audio, audio_inputs, values_only=values_only)
            if video_kv is not None:
                audio = self._video_to_audio(audio, rms(audio, self.eps), audio_inputs, video_kv)
            return self._feed_forward("audio_", audio, audio_inputs), None
        video = self._attention("", video, video_inputs)
        audio = self._attention("audio_", audio, audio_inputs, values_only=values_only)
        # Each stream reads the other as it was before this exchange.
        normed_audio, normed_video = rms(audio, self.eps), rms(video, self.eps)
        video = self._audio_to_video(video, normed_video, normed_audio, video_inputs, audio_inputs)
        audio = self._video_to_audio(audio, normed_audio, audio_inputs, self._video_kv(normed_video, video_inputs))
        return self._feed_forward("audio_", audio, audio_inputs), self._feed_forward("", video, video_inputs)

    def forward_one_way(self, video: Tensor, inputs: BlockInputs) -> tuple[Tensor, KeysValues]:
        """Update the tokens (B, N, D) of a one-way video; also returns its keys and values for the audio."""
        video = self._attention("", video, inputs)
        return self._feed_forward("", video, inputs), self._video_kv(rms(video, self.eps), inputs)

    def _attention(self, prefix: str, x: Tensor, inputs: BlockInputs, *, values_only: bool | Tensor = False) -> Tensor:
        """Self-attention, then cross-attention to the text, whose context is modulated by the sample's sigma."""
        table = getattr(self, f"{prefix}scale_shift_table")
        shift, scale, gate, q_shift, q_scale, q_gate = (
            table[row] + inputs.rows_BTKD[..., row, :] for row in (0, 1, 2, 6, 7, 8)
        )
        normed = modulate(rms(x, self.eps), scale, shift)
        rotation = inputs.self_rotation
        attended = getattr(self, f"{prefix}attn1")(normed, normed, rotation, rotation, values_only=values_only)
        x = torch.addcmul(x, attended, gate.to(x.dtype))
        prompt_shift, prompt_scale = (
            getattr(self, f"{prefix}prompt_scale_shift_table") + inputs.prompt_rows_BTKD
        ).unbind(-2)
        query = modulate(rms(x, self.eps), q_scale, q_shift)
        context = modulate(inputs.context_BSD, prompt_scale, prompt_shift)
        return torch.addcmul(x, getattr(self, f"{prefix}attn2")(query, context), q_gate.to(x.dtype))

    def _feed_forward(self, prefix: str, x: Tensor, inputs: BlockInputs) -> Tensor:
        table = getattr(self, f"{prefix}scale_shift_table")
        shift, scale, gate = (table[row] + inputs.rows_BTKD[..., row, :] for row in (3, 4, 5))
        normed = modulate(rms(x, self.eps), scale, shift)
        return torch.addcmul(x, getattr(self, f"{prefix}ff")(normed), gate.to(x.dtype))

    def _audio_to_video(
        self,
        video: Tensor,
        normed_video: Tensor,
        normed_audio: Tensor,
        video_inputs: BlockInputs,
        audio_inputs: BlockInputs,
    ) -> Tensor:
        """The video attends to the audio."""
        audio_rows = _cross_rows(self.scale_shift_table_a2v_ca_audio, audio_inputs)
        video_rows = _cross_rows(self.scale_shift_table_a2v_ca_video, video_inputs)
        attended = self.audio_to_video_attn(
            modulate(normed_video, video_rows[0], video_rows[1]),
            modulate(normed_audio, audio_rows[0], audio_rows[1]),
            video_inputs.cross_rotation,
            audio_inputs.cross_rotation,
        )
        return _gated_residual(video, attended, self.scale_shift_table_a2v_ca_video, video_inputs)

    def _video_kv(self, normed_video: Tensor, inputs: BlockInputs) -> KeysValues:
        """Keys and values of the video that the audio attends to."""
        rows = _cross_rows(self.scale_shift_table_a2v_ca_video, inputs)
        return self.video_to_audio_attn.keys_values(modulate(normed_video, rows[2], rows[3]), inputs.cross_rotation)

    def _video_to_audio(self, audio: Tensor, normed_audio: Tensor, inputs: BlockInputs, video_kv: KeysValues) -> Tensor:
        """The audio attends to the video."""
        rows = _cross_rows(self.scale_shift_table_a2v_ca_audio, inputs)
        attended = self.video_to_audio_attn.forward_with_kv(
            modulate(normed_audio, rows[2], rows[3]), video_kv, inputs.cross_rotation
        )
        return _gated_residual(audio, attended, self.scale_shift_table_a2v_ca_audio, inputs)


def _cross_rows(table_5D: Tensor, inputs: BlockInputs) -> tuple[Tensor, ...]:
    assert inputs.cross_rows_BTKD is not None
    return (table_5D[:4] + inputs.cross_rows_BTKD).unbind(-2)


def _gated_residual(x: Tensor, from_other: Tensor, table_5D: Tensor, inputs: BlockInputs) -> Tensor:
    assert inputs.cross_gate_BTD is not None
    return torch.addcmul(x, from_other, (table_5D[4] + inputs.cross_gate_BTD).to(x.dtype))
