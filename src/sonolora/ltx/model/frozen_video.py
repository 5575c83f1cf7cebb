"""Clean videos that do not hear the audio, once through their stream, to what the audio looks at in every block.

In: a checkpoint and the videos. Out: a `Watched` of each. The video stream is as wide as 31 GB of the published model;
here one block of it is on the device at a time: all videos go through it, then it makes room for the next.

B batch, N video tokens, D video width, L blocks, H audio heads, K channels of an audio head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from sonolora.ltx.model.config import TransformerConfig
from sonolora.ltx.model.transformer import PREFIX, Stream, Transformer, Watched, belongs
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module

_BLOCKS = "transformer_blocks."


@torch.no_grad()
def watch(
    checkpoint: Checkpoint,
    videos: Sequence[Stream],
    *,
    device: torch.device,
    dtype: torch.dtype,
    park: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> list[Watched]:
    """What the audio sees of each video, in `dtype`, on `park`, where the videos also wait between two blocks.

    It is what the network with both streams would compute if the video's attention to the audio were left out.
    `advance` is called after each block. What is parked beside a card is in pinned memory, so that it can be copied
    there without a wait; not yet run on a GPU. Raises `CheckpointError` as `load_transformer` does.
    """
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    with torch.device("meta"):
        half = Transformer(config, video=True, apart=True)
    names = [name for name in checkpoint.names(PREFIX) if belongs(name, video=True, apart=True)]
    checkpoint = checkpoint.holding(names)

    def load(module: nn.Module, prefix: str, claims: list[str]) -> None:
        load_module(module, checkpoint, file_name=lambda name: prefix + name, claims=claims, device=device, dtype=dtype)

    blocks, half.transformer_blocks = half.transformer_blocks, nn.ModuleList()
    load(half, PREFIX, [name for name in names if not name.startswith(PREFIX + _BLOCKS)])
    waiting: list[Tensor] = []
    watched = [
        _room(config, video, dtype, park, pinned=device.type == "cuda" and park.type == "cpu") for video in videos
    ]
    for index, block in enumerate(blocks):
        prefix = f"{PREFIX}{_BLOCKS}{index}."
        load(block, prefix, [name for name in names if name.startswith(prefix)])
        for which, video in enumerate(videos):
            x_BND, flow = half.enter_apart(_to(video, device))
            if index:
                x_BND = waiting[which].to(device)
            else:
                waiting.append(x_BND)
            x_BND, (keys_BHNK, values_BHNK) = block.pass_apart(x_BND, flow)  # type: ignore[operator]
            waiting[which] = x_BND.to(park)
            watched[which].keys_BLHNK[:, index] = keys_BHNK
            watched[which].values_BLHNK[:, index] = values_BHNK
        block.to("meta")
        advance()
    return watched


def watched_bytes(config: TransformerConfig, tokens: int, dtype: torch.dtype) -> int:
    """Of the `Watched` of one video of so many tokens."""
    return 2 * config.layers * tokens * config.audio.width * dtype.itemsize


def _room(config: TransformerConfig, video: Stream, dtype: torch.dtype, park: torch.device, *, pinned: bool) -> Watched:
    batch, tokens, _ = video.latents_BTC.shape
    shape = batch, config.layers, config.audio.heads, tokens, config.audio.head_dim
    return Watched(*(torch.empty(shape, dtype=dtype, device=park, pin_memory=pinned) for _ in fields(Watched)))


def _to(video: Stream, device: torch.device) -> Stream:
    assert video.keep_BT is None
    return Stream(*(getattr(video, field.name).to(device) for field in fields(Stream) if field.name != "keep_BT"))
