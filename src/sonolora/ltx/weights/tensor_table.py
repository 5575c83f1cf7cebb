"""The tensor table of a published checkpoint: name, shape and dtype of every tensor, derived from the header config.

In: a header config, by default that of LTX-2.3. Out: the tensors that its file must hold, and those that a mode needs.
The rules follow the published format and are independent of the modules that load it, so each checks the other; tests
compare them with the published counts and with files written by the publisher's own code.

A audio width, D video width. Names end as in a state dict: `.weight`, `.bias`, or a bare parameter name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_TEXT_STATES

_TRANSFORMER = "model.diffusion_model."
_AUDIO_PARTS = re.compile(
    r"(audio_vae|vocoder|text_embedding_projection\.audio_aggregate_embed"
    rf"|{re.escape(_TRANSFORMER)}(transformer_blocks\.\d+\.)?audio_(?!to_video_attn))"
)
_STRIDE = {"space": 4, "time": 2, "all": 8}  # values folded into one by a compression block
_Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class PublishedTensor:
    """The safetensors dtype name and the shape that a tensor of the file must have."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def published_tensors(
    config: Mapping[str, Any] = LTX23_CONFIG, text_states: int = LTX23_TEXT_STATES
) -> dict[str, PublishedTensor]:
    """Every tensor of a file with this header config, by its full name.

    `text_states` is the number of hidden states of the text encoder, which the header does not give. Raises `KeyError`
    for a header without a key that a rule needs.
    """
    named = dict(_transformer(config["transformer"]))
    named |= _connector("video", config["transformer"], "")
    named |= _connector("audio", config["transformer"], "audio_")
    named |= _projections(config["transformer"], text_states)
    named |= _audio_vae(config["audio_vae"]["model"]["params"]["ddconfig"])
    named |= _vocoder(config["vocoder"], config["audio_vae"])
    named |= _video_vae(config["vae"])
    # Only the scale and shift tables are stored as float32.
    return {
        name: PublishedTensor("F32" if "scale_shift_table" in name else "BF16", shape) for name, shape in named.items()
    }


def needed(names: Iterable[str], *, video: bool) -> set[str]:
    """The names that the five audio modes need, or with `video` those that v2a needs."""
    if video:
        return {name for name in names if not name.startswith("vae.decoder.")}
    return {name for name in names if _AUDIO_PARTS.match(name)}


def _linear(name: str, out: int, inputs: int) -> _Shapes:
    yield f"{name}.weight", (out, inputs)
    yield f"{name}.bias", (out,)


def _conv(name: str, out: int, inputs: int, *kernel: int, bias: bool = True) -> _Shapes:
    yield f"{name}.weight", (out, inputs, *kernel)
    if bias:
        yield f"{name}.bias", (out,)


def _attention(name: str, query: int, context: int, inner: int, heads: int, *, gated: bool) -> _Shapes:
    yield f"{name}.q_norm.weight", (inner,)
    yield f"{name}.k_norm.weight", (inner,)
    yield from _linear(f"{name}.to_q", inner, query)
    yield from _linear(f"{name}.to_k", inner, context)
    yield from _linear(f"{name}.to_v", inner, context)
    yield from _linear(f"{name}.to_out.0", query, inner)
    if gated:
        yield from _linear(f"{name}.to_gate_logits", heads, query)


def _feed_forward(name: str, width: int) -> _Shapes:
    yield from _linear(f"{name}.net.0.proj", 4 * width, width)
    yield from _linear(f"{name}.net.2", width, 4 * width)


def _adaln(name: str, width: int, rows: int) -> _Shapes:
    yield from _linear(f"{name}.emb.timestep_embedder.linear_1", width, 256)
    yield from _linear(f"{name}.emb.timestep_embedder.linear_2", width, width)
    yield from _linear(f"{name}.linear", rows * width, width)


def _transformer(config: Mapping[str, Any]) -> _Shapes:
    heads, gated = config["num_attention_heads"], config["apply_gated_attention"]
    audio = config["audio_num_attention_heads"] * config["audio_attention_head_dim"]
    video = heads * config["attention_head_dim"]
    streams = (
        ("audio_", audio, config["audio_out_channels"], config["audio_cross_attention_dim"]),
        ("", video, config["out_channels"], config["cross_attention_dim"]),
    )
    for stream, width, channels, _ in streams:
        prefix = _TRANSFORMER + stream
        yield from _linear(f"{prefix}patchify_proj", width, channels)
        yield from _linear(f"{prefix}proj_out", channels, width)
        yield from _adaln(f"{prefix}adaln_single", width, 9)
        yield from _adaln(f"{prefix}prompt_adaln_single", width, 2)
        yield f"{prefix}scale_shift_table", (2, width)
    for name, width, rows in (
        ("video_scale_shift", video, 4),
        ("audio_scale_shift", audio, 4),
        ("a2v_gate", video, 1),
        ("v2a_gate", audio, 1),
    ):
        yield from _adaln(f"{_TRANSFORMER}av_ca_{name}_adaln_single", width, rows)
    for index in range(config["num_layers"]):
        block = f"{_TRANSFORMER}transformer_blocks.{index}."
        for stream, width, _, context in streams:
            yield from _attention(f"{block}{stream}attn1", width, width, width, heads, gated=gated)
            yield from _attention(f"{block}{stream}attn2", width, context, width, heads, gated=gated)
            yield from _feed_forward(f"{block}{stream}ff", width)
            yield f"{block}{stream}scale_shift_table", (9, width)
            yield f"{block}{stream}prompt_scale_shift_table", (2, width)
        yield from _attention(f"{block}audio_to_video_attn", video, audio, audio, heads, gated=gated)
        yield from _attention(f"{block}video_to_audio_attn", audio, video, audio, heads, gated=gated)
        yield f"{block}scale_shift_table_a2v_ca_audio", (5, audio)
        yield f"{block}scale_shift_table_a2v_ca_video", (5, video)


def _connector(stream: str, config: Mapping[str, Any], prefix: str) -> _Shapes:
    heads = config[f"{prefix}connector_num_attention_heads"]
    width = heads * config[f"{prefix}connector_attention_head_dim"]
    name = f"{_TRANSFORMER}{stream}_embeddings_connector."
    yield f"{name}learnable_registers", (config["connector_num_learnable_registers"], width)
    for index in range(config.get(f"{prefix}connector_num_layers", config["connector_num_layers"])):
        block = f"{name}transformer_1d_blocks.{index}."
        gated = config["connector_apply_gated_attention"]
        yield from _attention(f"{block}attn1", width, width, width, heads, gated=gated)
        yield from _feed_forward(f"{block}ff", width)


def _projections(config: Mapping[str, Any], text_states: int) -> _Shapes:
    features = config["caption_channels"] * text_states
    for stream, prefix in (("video", ""), ("audio", "audio_")):
        width = config[f"{prefix}cross_attention_dim"]
        yield from _linear(f"text_embedding_projection.{stream}_aggregate_embed", width, features)


def _audio_vae(config: Mapping[str, Any]) -> _Shapes:
    widths = [config["ch"] * factor for factor in config["ch_mult"]]
    latents = config["z_channels"]

    def residual(name: str, inputs: int, out: int) -> _Shapes:
        yield from _conv(f"{name}.conv1.conv", out, inputs, 3, 3)
        yield from _conv(f"{name}.conv2.conv", out, out, 3, 3)
        if inputs != out:
            yield from _conv(f"{name}.nin_shortcut.conv", out, inputs, 1, 1)

    encoder, decoder = "audio_vae.encoder.", "audio_vae.decoder."
    yield from _conv(f"{encoder}conv_in.conv", config["ch"], config["in_channels"], 3, 3)
    before = config["ch"]
    for level, width in enumerate(widths):
        for block in range(config["num_res_blocks"]):
            yield from residual(f"{encoder}down.{level}.block.{block}", before, width)
            before = width
        if level < len(widths) - 1:
            yield from _conv(f"{encoder}down.{level}.downsample.conv", width, width, 3, 3)
    yield from _conv(f"{encoder}conv_out.conv", (1 + config["double_z"]) * latents, before, 3, 3)

    yield from _conv(f"{decoder}conv_in.conv", before, latents, 3, 3)
    for half in (encoder, decoder):
        for block in (1, 2):
            yield from residual(f"{half}mid.block_{block}", before, before)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(config["num_res_blocks"] + 1):
            yield from residual(f"{decoder}up.{level}.block.{block}", before, width)
            before = width
        if level:
            yield from _conv(f"{decoder}up.{level}.upsample.conv.conv", width, width, 3, 3)
    yield from _conv(f"{decoder}conv_out.conv", config["out_ch"], before, 3, 3)
    for statistic in ("mean-of-means", "std-of-means"):
        yield f"audio_vae.per_channel_statistics.{statistic}", (config["ch"],)


def _vocoder(config: Mapping[str, Any], audio_vae: Mapping[str, Any]) -> _Shapes:
    shape = audio_vae["model"]["params"]["ddconfig"]
    bwe, channels = config["bwe"], shape["out_ch"]
    yield from _generator("vocoder.vocoder.", config["vocoder"], channels * shape["mel_bins"], channels)
    yield from _generator("vocoder.bwe_generator.", bwe, channels * bwe["num_mels"], channels)
    bins = bwe["n_fft"] // 2 + 1
    yield "vocoder.mel_stft.mel_basis", (bwe["num_mels"], bins)
    for basis in ("forward_basis", "inverse_basis"):
        yield f"vocoder.mel_stft.stft_fn.{basis}", (2 * bins, 1, bwe["win_size"])


def _generator(name: str, config: Mapping[str, Any], inputs: int, out: int) -> _Shapes:
    def activation(at: str, width: int) -> _Shapes:
        yield f"{at}.act.alpha", (width,)
        yield f"{at}.act.beta", (width,)
        yield f"{at}.upsample.filter", (1, 1, 12)
        yield f"{at}.downsample.lowpass.filter", (1, 1, 12)

    width = config["upsample_initial_channel"]
    kernels = config["resblock_kernel_sizes"]
    yield from _conv(f"{name}conv_pre", width, inputs, 7)
    for stage, kernel in enumerate(config["upsample_kernel_sizes"]):
        yield f"{name}ups.{stage}.weight", (width, width // 2, kernel)  # transposed: in, out
        width //= 2
        yield f"{name}ups.{stage}.bias", (width,)
        for which, size in enumerate(kernels):
            block = f"{name}resblocks.{stage * len(kernels) + which}"
            for layer in range(len(config["resblock_dilation_sizes"][which])):
                for half in (1, 2):
                    yield from _conv(f"{block}.convs{half}.{layer}", width, width, size)
                    yield from activation(f"{block}.acts{half}.{layer}", width)
    yield from activation(f"{name}act_post", width)
    yield from _conv(f"{name}conv_post", out, width, 7, bias=config.get("use_bias_at_final", True))


def _video_vae(config: Mapping[str, Any]) -> _Shapes:
    latents, pixels = config["latent_channels"], config["patch_size"] ** 2

    def conv(name: str, out: int, inputs: int) -> _Shapes:
        yield from _conv(f"{name}.conv", out, inputs, 3, 3, 3)

    def half(name: str, blocks: Sequence[Any], width: int, *, down: bool) -> _Shapes:
        yield from conv(f"vae.{name}.conv_in", width, config["in_channels"] * pixels if down else latents)
        for index, (kind, options) in enumerate(blocks):
            block = f"vae.{name}.{'down' if down else 'up'}_blocks.{index}"
            if kind == "res_x":
                for layer in range(options["num_layers"]):
                    yield from conv(f"{block}.res_blocks.{layer}.conv1", width, width)
                    yield from conv(f"{block}.res_blocks.{layer}.conv2", width, width)
                continue
            stride, multiplier = _STRIDE[kind.split("_")[1]], options["multiplier"]
            # Down: space folds into channels after the conv. Up: channels unfold into space after it.
            after = width * multiplier if down else width // multiplier
            yield from conv(f"{block}.conv", after // stride if down else after * stride, width)
            width = after
        yield from conv(f"vae.{name}.conv_out", latents + 1 if down else config["out_channels"] * pixels, width)

    yield from half("encoder", config["encoder_blocks"], latents, down=True)
    if decoder := config.get("decoder_blocks"):
        yield from half("decoder", decoder[::-1], 8 * config["decoder_base_channels"], down=False)
    for statistic in ("mean-of-means", "std-of-means"):
        yield f"vae.per_channel_statistics.{statistic}", (latents,)
