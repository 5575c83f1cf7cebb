"""The encoder of the video codec: frames -> latents. Sonolora does not generate video.

In: 8 k + 1 RGB frames in [-1, 1], height and width divisible by 32. Out: normalised latents, and the positions of
their tokens.

B batch, C channels, F frames, H height, W width, N tokens. The network is that of diffusers, loaded from the
published names; tests/ltx/codec/test_video_encoder.py compares it with output of the publisher's code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoEncoder3d
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError
from sonolora.core.frames import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module

_PREFIXES = ("vae.encoder.", "vae.per_channel_statistics.")
_STATISTICS = {"latents_mean": "mean-of-means", "latents_std": "std-of-means"}
_COMPRESSIONS = {
    "compress_space_res": "spatial",
    "compress_time_res": "temporal",
    "compress_all_res": "spatiotemporal",
}
_FIXED = {"norm_layer": "pixel_norm", "latent_log_var": "uniform"}


class VideoEncoder(nn.Module):
    """The network, and the statistics that normalise its latents."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        """Build from the header's `vae` section. Raises `CheckpointError` when it describes another network."""
        super().__init__()
        self.network = _network(section)
        self.register_buffer("latents_mean", torch.zeros(section["latent_channels"]))
        self.register_buffer("latents_std", torch.ones(section["latent_channels"]))

    def checkpoint_name(self, name: str) -> str:
        """The published name of a tensor.

        The published list numbers residual blocks and the compressions between them consecutively; diffusers makes a
        compression part of the block before it, and calls the last residual block `mid_block`.
        """
        if name in _STATISTICS:
            return _PREFIXES[1] + _STATISTICS[name]
        name = name.removeprefix("network.")
        name = name.replace("mid_block.", f"down_blocks.{len(self.network.down_blocks)}.")
        name = re.sub(r"blocks\.(\d+)\.resnets", lambda at: f"blocks.{2 * int(at[1])}.res_blocks", name)
        name = re.sub(r"blocks\.(\d+)\.downsamplers\.0", lambda at: f"blocks.{2 * int(at[1]) + 1}", name)
        return _PREFIXES[0] + name

    def encode(self, frames_BCFHW: Tensor) -> Tensor:
        """Normalised latents (B, C, (F - 1) / 8 + 1, H / 32, W / 32), float32.

        Raises `ValueError` when frames or sides do not fill whole latents.
        """
        frames, height, width = frames_BCFHW.shape[2:]
        if (frames - 1) % FRAMES_PER_LATENT or height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT:
            raise ValueError(f"{frames} frames of {height} x {width} do not fill whole latents")
        moments = self.network(frames_BCFHW.to(self.network.conv_in.conv.weight.dtype)).float()
        mean, std = (self.get_buffer(name).float()[:, None, None, None] for name in _STATISTICS)
        latents: Tensor = (moments[:, : len(mean)] - mean) / std  # the rest is the log-variance
        return latents


def load_video_encoder(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> VideoEncoder:
    """Load the encoder from a checkpoint. Raises `CheckpointError` when header and tensors do not fit."""
    try:
        with torch.device("meta"):
            encoder = VideoEncoder(checkpoint.section("vae"))
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.path}: the header's vae config lacks {error}") from error
    load_module(
        encoder,
        checkpoint,
        checkpoint_name=encoder.checkpoint_name,
        names={name for prefix in _PREFIXES for name in checkpoint.names(prefix)},
        device=device,
        dtype=dtype,
    )
    return encoder


def _network(section: Mapping[str, Any]) -> LTX2VideoEncoder3d:
    """The network for the header's block list: residual blocks with a compression between each pair."""
    blocks = [
        (kind, {"num_layers": options} if isinstance(options, int) else options)
        for kind, options in section["encoder_blocks"]
    ]
    residual, compressions = blocks[::2], blocks[1::2]
    others = {kind: section[kind] for kind, value in _FIXED.items() if section[kind] != value}
    if (
        others
        or len(blocks) % 2 == 0
        or any(kind != "res_x" for kind, _ in residual)
        or any(kind not in _COMPRESSIONS for kind, _ in compressions)
    ):
        raise CheckpointError(f"this video encoder is not supported: {others or blocks}")
    kinds = [_COMPRESSIONS[kind] for kind, _ in compressions]
    frames = 2 ** sum(kind != "spatial" for kind in kinds)
    pixels = section["patch_size"] * 2 ** sum(kind != "temporal" for kind in kinds)
    if (frames, pixels) != (FRAMES_PER_LATENT, PIXELS_PER_LATENT):
        raise CheckpointError(
            f"the video encoder makes one latent of {frames} frames and {pixels} pixels; LTX-2.3 has "
            f"{FRAMES_PER_LATENT} and {PIXELS_PER_LATENT}"
        )
    widths = [section["latent_channels"]]
    for _, options in compressions:
        widths.append(widths[-1] * options["multiplier"])
    return LTX2VideoEncoder3d(
        in_channels=section["in_channels"],
        out_channels=section["latent_channels"],
        block_out_channels=tuple(widths[1:]),
        down_block_types=("LTX2VideoDownBlock3D",) * len(kinds),
        layers_per_block=tuple(options["num_layers"] for _, options in residual),
        downsample_type=tuple(kinds),
        patch_size=section["patch_size"],
        spatial_padding_mode=section.get("encoder_spatial_padding_mode", "zeros"),
    )


def video_token_midpoints(frames: int, height: int, width: int, fps: float) -> Tensor:
    """Positions (3, N) of the tokens of `frames` x `height` x `width` latents, frame by frame, row by row.

    Midpoints in time (seconds), height and width (pixels). The codec is causal: latent frame 0 covers one frame, each
    later one the next eight.
    """
    ends = torch.arange(frames, dtype=torch.float32) * FRAMES_PER_LATENT + 1
    seconds = (ends + (ends - FRAMES_PER_LATENT).clamp(min=0)) / 2 / fps
    rows, columns = ((torch.arange(count) + 0.5) * PIXELS_PER_LATENT for count in (height, width))
    return torch.stack(torch.meshgrid(seconds, rows, columns, indexing="ij")).flatten(1)
