"""The table of a published checkpoint: the name, shape and dtype of every tensor, made by rule from the header.

In: a header config, by default that of LTX-2.3. Out: what its file must hold, and which part of it a mode needs.
The rules are written down from the published format, apart from the networks that read it, so that each checks the
other; tests hold them to the published counts and to files of the publisher's own code.

A audio width, D video width. Names end as a state dict's do: `.weight`, `.bias`, or a bare parameter name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LTX23_VERSION = "2.3"  # what the header's `model_version` starts with
LTX23_TEXT_STATES = 49  # of Gemma 3 12B: its embeddings and 48 layers

# What the header of ltx-2.3-22b-dev.safetensors carries, by independent copies of it that agree.
LTX23_CONFIG: Mapping[str, Any] = json.loads("""
{"transformer": {
  "_class_name": "AVTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": true,
  "attention_head_dim": 128, "attention_type": "default", "caption_channels": 3840, "cross_attention_dim": 4096,
  "double_self_attention": false, "dropout": 0.0, "in_channels": 128, "norm_elementwise_affine": false,
  "norm_eps": 1e-06, "norm_num_groups": 32, "num_attention_heads": 32, "num_embeds_ada_norm": 1000, "num_layers": 48,
  "num_vector_embeds": null, "only_cross_attention": false, "cross_attention_norm": true, "out_channels": 128,
  "upcast_attention": false, "use_linear_projection": false, "qk_norm": "rms_norm", "standardization_norm": "rms_norm",
  "positional_embedding_type": "rope", "positional_embedding_theta": 10000.0,
  "positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000,
  "av_ca_timestep_scale_multiplier": 1000.0, "causal_temporal_positioning": true, "audio_num_attention_heads": 32,
  "audio_attention_head_dim": 64, "use_audio_video_cross_attention": true, "share_ff": false,
  "audio_out_channels": 128, "audio_cross_attention_dim": 2048, "audio_positional_embedding_max_pos": [20],
  "av_cross_ada_norm": true, "use_embeddings_connector": true, "connector_attention_head_dim": 128,
  "connector_num_attention_heads": 32, "connector_num_layers": 8, "connector_positional_embedding_max_pos": [4096],
  "connector_num_learnable_registers": 128, "connector_norm_output": true, "use_middle_indices_grid": true,
  "apply_gated_attention": true, "connector_apply_gated_attention": true, "caption_projection_first_linear": false,
  "caption_projection_second_linear": false, "caption_proj_input_norm": false, "connector_learnable_registers_std": 1,
  "caption_proj_before_connector": true, "audio_connector_attention_head_dim": 64,
  "audio_connector_num_attention_heads": 32, "cross_attention_adaln": true, "text_encoder_norm_type": "per_token_rms",
  "rope_type": "split", "frequencies_precision": "float64"},
"audio_vae": {
  "model": {"params": {"sampling_rate": 16000, "ddconfig": {
    "double_z": true, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": false, "in_channels": 2,
    "out_ch": 2, "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    "mid_block_add_attention": false, "norm_type": "pixel", "causality_axis": "height"}}},
  "preprocessing": {
    "audio": {"sampling_rate": 16000, "max_wav_value": 32768.0, "duration": 5.12, "stereo": true, "causal_padding": 3},
    "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": true},
    "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000}}},
"vocoder": {
  "vocoder": {
    "upsample_initial_channel": 1536, "upsample_rates": [5, 2, 2, 2, 2, 2],
    "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4], "resblock": "AMP1", "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "stereo": true, "use_tanh_at_final": false,
    "activation": "snakebeta", "use_bias_at_final": false},
  "bwe": {
    "upsample_initial_channel": 512, "upsample_rates": [6, 5, 2, 2, 2], "upsample_kernel_sizes": [12, 11, 4, 4, 4],
    "resblock": "AMP1", "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "stereo": true, "use_tanh_at_final": false,
    "activation": "snakebeta", "use_bias_at_final": false, "apply_final_activation": false,
    "input_sampling_rate": 16000, "output_sampling_rate": 48000, "hop_length": 80, "n_fft": 512, "win_size": 512,
    "num_mels": 64}},
"vae": {
  "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
  "encoder_blocks": [
    ["res_x", {"num_layers": 4}], ["compress_space_res", {"multiplier": 2}],
    ["res_x", {"num_layers": 6}], ["compress_time_res", {"multiplier": 2}],
    ["res_x", {"num_layers": 4}], ["compress_all_res", {"multiplier": 2}],
    ["res_x", {"num_layers": 2}], ["compress_all_res", {"multiplier": 1}],
    ["res_x", {"num_layers": 2}]],
  "decoder_blocks": [
    ["res_x", {"num_layers": 4}], ["compress_space", {"multiplier": 2}],
    ["res_x", {"num_layers": 6}], ["compress_time", {"multiplier": 2}],
    ["res_x", {"num_layers": 4}], ["compress_all", {"multiplier": 1}],
    ["res_x", {"num_layers": 2}], ["compress_all", {"multiplier": 2}],
    ["res_x", {"num_layers": 2}]],
  "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
  "use_quant_conv": false, "causal_decoder": false, "timestep_conditioning": false,
  "normalize_latent_channels": false, "encoder_base_channels": 128, "decoder_base_channels": 128,
  "spatial_padding_mode": "zeros"},
"scheduler": {
  "_class_name": "RectifiedFlowScheduler", "_diffusers_version": "0.25.1", "num_train_timesteps": 1000,
  "shifting": null, "base_resolution": null, "sampler": "LinearQuadratic"}}
""")

_TRANSFORMER = "model.diffusion_model."
_AUDIO_PARTS = re.compile(
    r"(audio_vae|vocoder|text_embedding_projection\.audio_aggregate_embed"
    rf"|{re.escape(_TRANSFORMER)}(transformer_blocks\.\d+\.)?audio_(?!to_video_attn))"
)
_STRIDE = {"space": 4, "time": 2, "all": 8}  # values that a compression folds into one
_Named = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class PublishedTensor:
    """What a tensor of the file must be: its safetensors dtype name and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def published_tensors(
    config: Mapping[str, Any] = LTX23_CONFIG, text_states: int = LTX23_TEXT_STATES
) -> dict[str, PublishedTensor]:
    """Every tensor of a file with this header config, by its full name.

    `text_states` is the number of the text encoder's hidden states, which the header does not give. Raises
    `KeyError` for a header that lacks what a rule needs.
    """
    named = dict(_transformer(config["transformer"]))
    named |= _connector("video", config["transformer"], "")
    named |= _connector("audio", config["transformer"], "audio_")
    named |= _projections(config["transformer"], text_states)
    named |= _audio_vae(config["audio_vae"]["model"]["params"]["ddconfig"])
    named |= _vocoder(config["vocoder"], config["audio_vae"])
    named |= _video_vae(config["vae"])
    # Only the tables that modulate are kept in float32.
    return {
        name: PublishedTensor("F32" if "scale_shift_table" in name else "BF16", shape) for name, shape in named.items()
    }


def needed(names: Iterable[str], *, video: bool) -> set[str]:
    """Those of a file's tensors that the five audio modes need, or with `video` those that v2a needs."""
    if video:
        return {name for name in names if not name.startswith("vae.decoder.")}
    return {name for name in names if _AUDIO_PARTS.match(name)}


def _linear(name: str, out: int, into: int) -> _Named:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _conv(name: str, out: int, into: int, *kernel: int, bias: bool = True) -> _Named:
    yield f"{name}.weight", (out, into, *kernel)
    if bias:
        yield f"{name}.bias", (out,)


def _attention(name: str, query: int, context: int, inner: int, heads: int, *, gated: bool) -> _Named:
    yield f"{name}.q_norm.weight", (inner,)
    yield f"{name}.k_norm.weight", (inner,)
    yield from _linear(f"{name}.to_q", inner, query)
    yield from _linear(f"{name}.to_k", inner, context)
    yield from _linear(f"{name}.to_v", inner, context)
    yield from _linear(f"{name}.to_out.0", query, inner)
    if gated:
        yield from _linear(f"{name}.to_gate_logits", heads, query)


def _feed_forward(name: str, width: int) -> _Named:
    yield from _linear(f"{name}.net.0.proj", 4 * width, width)
    yield from _linear(f"{name}.net.2", width, 4 * width)


def _adaln(name: str, width: int, rows: int) -> _Named:
    yield from _linear(f"{name}.emb.timestep_embedder.linear_1", width, 256)
    yield from _linear(f"{name}.emb.timestep_embedder.linear_2", width, width)
    yield from _linear(f"{name}.linear", rows * width, width)


def _transformer(config: Mapping[str, Any]) -> _Named:
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


def _connector(stream: str, config: Mapping[str, Any], prefix: str) -> _Named:
    heads = config[f"{prefix}connector_num_attention_heads"]
    width = heads * config[f"{prefix}connector_attention_head_dim"]
    name = f"{_TRANSFORMER}{stream}_embeddings_connector."
    yield f"{name}learnable_registers", (config["connector_num_learnable_registers"], width)
    for index in range(config.get(f"{prefix}connector_num_layers", config["connector_num_layers"])):
        block = f"{name}transformer_1d_blocks.{index}."
        gated = config["connector_apply_gated_attention"]
        yield from _attention(f"{block}attn1", width, width, width, heads, gated=gated)
        yield from _feed_forward(f"{block}ff", width)


def _projections(config: Mapping[str, Any], text_states: int) -> _Named:
    features = config["caption_channels"] * text_states
    for stream, prefix in (("video", ""), ("audio", "audio_")):
        width = config[f"{prefix}cross_attention_dim"]
        yield from _linear(f"text_embedding_projection.{stream}_aggregate_embed", width, features)


def _audio_vae(config: Mapping[str, Any]) -> _Named:
    widths = [config["ch"] * factor for factor in config["ch_mult"]]
    latents = config["z_channels"]

    def residual(name: str, into: int, out: int) -> _Named:
        yield from _conv(f"{name}.conv1.conv", out, into, 3, 3)
        yield from _conv(f"{name}.conv2.conv", out, out, 3, 3)
        if into != out:
            yield from _conv(f"{name}.nin_shortcut.conv", out, into, 1, 1)

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


def _vocoder(config: Mapping[str, Any], audio_vae: Mapping[str, Any]) -> _Named:
    shape = audio_vae["model"]["params"]["ddconfig"]
    bwe, channels = config["bwe"], shape["out_ch"]
    yield from _generator("vocoder.vocoder.", config["vocoder"], channels * shape["mel_bins"], channels)
    yield from _generator("vocoder.bwe_generator.", bwe, channels * bwe["num_mels"], channels)
    bins = bwe["n_fft"] // 2 + 1
    yield "vocoder.mel_stft.mel_basis", (bwe["num_mels"], bins)
    for basis in ("forward_basis", "inverse_basis"):
        yield f"vocoder.mel_stft.stft_fn.{basis}", (2 * bins, 1, bwe["win_size"])


def _generator(name: str, config: Mapping[str, Any], into: int, out: int) -> _Named:
    def activation(at: str, width: int) -> _Named:
        yield f"{at}.act.alpha", (width,)
        yield f"{at}.act.beta", (width,)
        yield f"{at}.upsample.filter", (1, 1, 12)
        yield f"{at}.downsample.lowpass.filter", (1, 1, 12)

    width = config["upsample_initial_channel"]
    kernels = config["resblock_kernel_sizes"]
    yield from _conv(f"{name}conv_pre", width, into, 7)
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


def _video_vae(config: Mapping[str, Any]) -> _Named:
    latents, pixels = config["latent_channels"], config["patch_size"] ** 2

    def conv(name: str, out: int, into: int) -> _Named:
        yield from _conv(f"{name}.conv", out, into, 3, 3, 3)

    def half(name: str, blocks: Sequence[Any], width: int, *, down: bool) -> _Named:
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
