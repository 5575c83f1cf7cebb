"""The dimensions of the transformer, from the checkpoint's header.

In: the `transformer` section of the header config. Out: frozen dataclasses, validated on construction.
Settings that this implementation does not support are rejected by name: a silently wrong model is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sonolora.core.errors import CheckpointError

# Fixed in this architecture; the published loader also rejects other values.
_FIXED: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "rope_type": "split",
    "share_ff": False,
    "use_audio_video_cross_attention": True,
    "av_cross_ada_norm": True,
    "use_middle_indices_grid": True,
    "cross_attention_adaln": True,
    "cross_attention_norm": True,
    "causal_temporal_positioning": True,
    "text_encoder_norm_type": "per_token_rms",
    "use_prompt_adaln_single": True,
    "ff_bias": True,
    "audio_ff_bias": True,
    "use_keyframes_abs_pos_embedding": False,
    "connector_norm_output": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
    "caption_proj_input_norm": False,
    "dropout": 0.0,
}
_DEFAULTS: Mapping[str, Any] = {"cross_attention_adaln": False, "text_encoder_norm_type": None}


@dataclass(frozen=True)
class StreamConfig:
    """One stream of the transformer, audio or video."""

    channels: int  # of a latent token, input and output
    heads: int
    head_dim: int
    context_dim: int  # width of its text context
    max_positions: tuple[float, ...]  # per position axis: seconds, and pixels for video

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class ConnectorConfig:
    """The text connector of one stream."""

    heads: int
    head_dim: int
    layers: int
    registers: int
    max_position: float
    gated: bool
    float64_frequencies: bool
    theta: float
    eps: float

    @property
    def width(self) -> int:
        """Width of the connector, which equals that of the stream's text context."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """The two-stream transformer and its text connectors."""

    layers: int
    audio: StreamConfig
    video: StreamConfig
    audio_connector: ConnectorConfig
    video_connector: ConnectorConfig
    text_channels: int  # width of the text encoder's hidden states
    gated: bool
    theta: float
    float64_frequencies: bool
    timestep_scale: float
    av_timestep_scale: float
    eps: float

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> TransformerConfig:
        """Read the header's `transformer` section. Raises `CheckpointError` naming a missing or unsupported key."""
        for key, value in _FIXED.items():
            actual = header.get(key, _DEFAULTS.get(key, value))
            if actual != value:
                raise CheckpointError(
                    f"this checkpoint has {key}={actual!r} where LTX-2.3 has {value!r}: it is another model version, "
                    "which Sonolora does not support"
                )
        try:
            heads, audio_heads = header["num_attention_heads"], header["audio_num_attention_heads"]
            theta = float(header.get("positional_embedding_theta", 10000.0))
            float64 = header.get("frequencies_precision") == "float64"
            eps = float(header.get("norm_eps", 1e-6))
            gated = bool(header.get("apply_gated_attention", False))
            layers = header["connector_num_layers"]

            def connector(prefix: str, count: int) -> ConnectorConfig:
                return ConnectorConfig(
                    heads=header[f"{prefix}connector_num_attention_heads"],
                    head_dim=header[f"{prefix}connector_attention_head_dim"],
                    layers=count,
                    registers=header["connector_num_learnable_registers"],
                    max_position=float(header["connector_positional_embedding_max_pos"][0]),
                    gated=bool(header.get("connector_apply_gated_attention", False)),
                    float64_frequencies=float64,
                    theta=theta,
                    eps=eps,
                )

            config = cls(
                layers=header["num_layers"],
                audio=StreamConfig(
                    channels=header.get("audio_in_channels", header["audio_out_channels"]),
                    heads=audio_heads,
                    head_dim=header["audio_attention_head_dim"],
                    context_dim=header["audio_cross_attention_dim"],
                    max_positions=tuple(map(float, header["audio_positional_embedding_max_pos"])),
                ),
                video=StreamConfig(
                    channels=header["in_channels"],
                    heads=heads,
                    head_dim=header["attention_head_dim"],
                    context_dim=header["cross_attention_dim"],
                    max_positions=tuple(map(float, header["positional_embedding_max_pos"])),
                ),
                audio_connector=connector("audio_", header.get("audio_connector_num_layers", layers)),
                video_connector=connector("", layers),
                text_channels=header["caption_channels"],
                gated=gated,
                theta=theta,
                float64_frequencies=float64,
                timestep_scale=float(header["timestep_scale_multiplier"]),
                av_timestep_scale=float(header.get("av_ca_timestep_scale_multiplier", 1.0)),
                eps=eps,
            )
        except KeyError as error:
            raise CheckpointError(f"the header's transformer config lacks {error.args[0]!r}") from error
        if heads != audio_heads:
            raise CheckpointError(f"the streams have {heads} and {audio_heads} heads; they must be equal")
        return config
