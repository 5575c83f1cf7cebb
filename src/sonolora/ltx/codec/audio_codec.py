"""The audio codec: waveform -> log-mel -> latent tokens, and back through the vocoder to 48 kHz.

In: stereo waveforms at 16 kHz. Out: normalised latents, 25 tokens per second; from latents, waveforms at 48 kHz.
Everything runs in float32: the vocoder loses audible quality in bfloat16.

B batch, C audio channels (2), N samples, M mel frames, F mel bands, T latent frames, Z latent channels, D token
width (index: latent channel * frequencies + frequency). The networks are those of diffusers, loaded from the
published names; tests/ltx/codec/test_audio_codec.py compares them with outputs of the publisher's code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.analysis.mel import mel_filters
from sonolora.core.errors import CheckpointError
from sonolora.core.frames import MEL_SECONDS, MELS_PER_FRAME, encoded_seconds, frame_count
from sonolora.core.paused_collection import paused_collection
from sonolora.ltx.codec.log_mel import LogMel
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module

with paused_collection():  # the import takes seconds
    from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

VAE_PREFIX = "audio_vae."
VOCODER_PREFIX = "vocoder."
_VAE_STATISTICS = {
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
}
_VOCODER_PARTS = {
    "conv_in": "conv_pre",
    "conv_out": "conv_post",
    "act_out": "act_post",
    "upsamplers": "ups",
    "resnets": "resblocks",
}


@dataclass(frozen=True)
class AudioCodec:
    """Encoder, decoder and vocoder of one checkpoint. All tensors are on the codec's device."""

    vae: AutoencoderKLLTX2Audio
    vocoder: LTX2VocoderWithBWE
    log_mel: LogMel  # waveform (B, C, N) -> (B, C, M, F)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the input, Hz."""
        return self.vae.config.sample_rate  # type: ignore[no-any-return]

    @property
    def output_sample_rate(self) -> int:
        """Sample rate of the output, Hz."""
        return self.vocoder.config.output_sampling_rate  # type: ignore[no-any-return]

    @property
    def channels(self) -> int:
        """Width of a latent token."""
        return self.vae.config.base_channels  # type: ignore[no-any-return]

    def encode(self, waveform_BCN: Tensor) -> Tensor:
        """Normalised latents (B, T, D) of a stereo waveform in [-1, 1], T = frame_count(N / sample_rate).

        Up to 30 ms of silence fill the last frame. N must exceed half the mel window.
        """
        samples = waveform_BCN.shape[-1]
        missing = round(encoded_seconds(frame_count(samples / self.sample_rate)) * self.sample_rate) - samples
        mel = self.log_mel(F.pad(waveform_BCN, (0, max(0, missing))))
        moments = self.vae.encoder(mel)
        mean_BZTF = moments[:, : self.vae.config.latent_channels]  # the rest is the log-variance
        tokens = mean_BZTF.transpose(1, 2).flatten(2)
        normalised: Tensor = (tokens - self.vae.latents_mean) / self.vae.latents_std
        return normalised

    def decode_mel(self, latents_BTD: Tensor) -> Tensor:
        """Log-mels (B, C, 4T - 3, F) of normalised latents."""
        tokens = latents_BTD * self.vae.latents_std + self.vae.latents_mean
        moments = tokens.unflatten(2, (self.vae.config.latent_channels, -1)).transpose(1, 2)
        return self.vae.decoder(moments)  # type: ignore[no-any-return]

    def vocode(self, log_mel_BCMF: Tensor) -> Tensor:
        """Waveforms (B, C, N) in [-1, 1] at `output_sample_rate`, 10 ms for each mel frame."""
        return self.vocoder(log_mel_BCMF)  # type: ignore[no-any-return]

    def decode(self, latents_BTD: Tensor) -> Tensor:
        """Waveforms (B, C, N) in [-1, 1] at `output_sample_rate`: 40 T - 30 ms of sound."""
        return self.vocode(self.decode_mel(latents_BTD))


def load_audio_codec(checkpoint: Checkpoint, *, device: torch.device) -> AudioCodec:
    """Load the codec from a checkpoint. Raises `CheckpointError` when header and tensors do not fit."""
    try:
        vae = build_vae(checkpoint.section("audio_vae"))
        vocoder = build_vocoder(checkpoint.section("vocoder"), vae)
        log_mel = build_log_mel(checkpoint.section("audio_vae"), device)
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.path}: the header's codec config lacks {error}") from error
    modules = (vae, VAE_PREFIX, vae_checkpoint_name), (vocoder, VOCODER_PREFIX, vocoder_checkpoint_name)
    for module, prefix, checkpoint_name in modules:
        load_module(
            module,
            checkpoint,
            checkpoint_name=checkpoint_name,
            names=checkpoint.names(prefix),
            device=device,
            dtype=torch.float32,
        )
    # The one tensor that is computed, not stored. The published code rounds it to bfloat16 like the stored ones.
    vocoder.resampler.filter = vocoder.resampler.filter.bfloat16().to(device, torch.float32)
    return AudioCodec(vae, vocoder, log_mel)


def build_vae(section: Mapping[str, Any]) -> AutoencoderKLLTX2Audio:
    """The network that the header's `audio_vae` section describes, with random weights."""
    parameters, stft = section["model"]["params"], section["preprocessing"]["stft"]
    shape = parameters["ddconfig"]
    factor = 2 ** (len(shape["ch_mult"]) - 1)
    token_width = shape["z_channels"] * shape["mel_bins"] // factor
    mel_seconds = stft["hop_length"] / parameters["sampling_rate"]
    if (factor, mel_seconds) != (MELS_PER_FRAME, MEL_SECONDS):
        raise CheckpointError(
            f"the audio VAE makes a frame of {factor} mel frames of {1000 * mel_seconds:g} ms; LTX-2.3 has "
            f"{MELS_PER_FRAME} of {1000 * MEL_SECONDS:g} ms"
        )
    if token_width != shape["ch"]:
        raise CheckpointError(
            f"the audio VAE has base width {shape['ch']} but {token_width} channels a latent frame; the "
            "published statistics need both to be equal"
        )
    return AutoencoderKLLTX2Audio(
        base_channels=shape["ch"],
        output_channels=shape["out_ch"],
        ch_mult=tuple(shape["ch_mult"]),
        num_res_blocks=shape["num_res_blocks"],
        attn_resolutions=tuple(shape["attn_resolutions"]),
        in_channels=shape["in_channels"],
        resolution=shape["resolution"],
        latent_channels=shape["z_channels"],
        norm_type=shape["norm_type"],
        causality_axis=shape["causality_axis"],
        dropout=shape["dropout"],
        mid_block_add_attention=shape["mid_block_add_attention"],
        sample_rate=parameters["sampling_rate"],
        mel_hop_length=stft["hop_length"],
        is_causal=stft["causal"],
        mel_bins=shape["mel_bins"],
        double_z=shape["double_z"],
    )


def build_vocoder(section: Mapping[str, Any], vae: AutoencoderKLLTX2Audio) -> LTX2VocoderWithBWE:
    """The network that the header's `vocoder` section describes, for the VAE's mels; random weights."""
    first, second = section["vocoder"], section["bwe"]
    channels = vae.config.output_channels
    return LTX2VocoderWithBWE(
        **_generator("", first, channels, vae.config.mel_bins),
        **_generator("bwe_", second, channels, second["num_mels"]),
        filter_length=second["n_fft"],
        hop_length=second["hop_length"],
        window_length=second["win_size"],
        num_mel_channels=second["num_mels"],
        input_sampling_rate=second["input_sampling_rate"],
        output_sampling_rate=second["output_sampling_rate"],
    )


def _generator(prefix: str, section: Mapping[str, Any], channels: int, mel_bands: int) -> dict[str, Any]:
    """Arguments of one of the vocoder's two stages."""
    kind = (section["resblock"], section["activation"])
    if kind != ("AMP1", "snakebeta"):
        raise CheckpointError(f"the vocoder's blocks are {kind} where LTX-2.3 has ('AMP1', 'snakebeta')")
    final = "tanh" if section["use_tanh_at_final"] else "clamp"
    arguments = {
        "in_channels": channels * mel_bands,
        "hidden_channels": section["upsample_initial_channel"],
        "out_channels": channels,
        "upsample_kernel_sizes": section["upsample_kernel_sizes"],
        "upsample_factors": section["upsample_rates"],
        "resnet_kernel_sizes": section["resblock_kernel_sizes"],
        "resnet_dilations": section["resblock_dilation_sizes"],
        "act_fn": "snakebeta",
        "antialias": True,
        "final_act_fn": final if section.get("apply_final_activation", True) else None,
        "final_bias": section["use_bias_at_final"],
    }
    return {prefix + name: value for name, value in arguments.items()}


def build_log_mel(section: Mapping[str, Any], device: torch.device) -> LogMel:
    """The spectrogram that the header's `audio_vae` section describes."""
    shape = section["model"]["params"]["ddconfig"]
    settings = section["preprocessing"]
    stft, mel = settings["stft"], settings["mel"]
    if stft["filter_length"] != stft["win_length"] or mel["n_mel_channels"] != shape["mel_bins"]:
        raise CheckpointError("the audio VAE's mel settings contradict each other in the header")
    filters = mel_filters(
        mel["n_mel_channels"],
        stft["filter_length"],
        settings["audio"]["sampling_rate"],
        mel["mel_fmin"],
        mel["mel_fmax"],
    )
    return LogMel(stft["win_length"], stft["hop_length"], torch.from_numpy(filters).float().to(device))


def vae_checkpoint_name(name: str) -> str:
    """The published name of a tensor of the VAE."""
    return VAE_PREFIX + _VAE_STATISTICS.get(name, name)


def vocoder_checkpoint_name(name: str) -> str:
    """The published name of a tensor of the vocoder."""
    parts = ".".join(_VOCODER_PARTS.get(part, part) for part in name.split("."))
    return VOCODER_PREFIX + re.sub(r"downsample\.filter$", "downsample.lowpass.filter", parts)
