"""One-way (frozen) videos: clean videos that do not attend to the audio, run once through the video stream.

In: a checkpoint and the videos. Out: a `CachedVideoKV` of each, the keys and values that the audio attends to in every
block. The video stream is 31 GB of the published model; here one block is on the device at a time, and all videos go
through it before the next is loaded.

B batch, N video tokens, D video width, L blocks, H audio heads, K channels of an audio head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from sonolora.ltx.model.transformer import PREFIX, CachedVideoKV, Stream, Transformer, belongs
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module
from sonolora.ltx.weights.transformer_config import TransformerConfig

_BLOCKS = "transformer_blocks."


@torch.no_grad()
def cache_video_kv(
    checkpoint: Checkpoint,
    videos: Sequence[Stream],
    *,
    device: torch.device,
    dtype: torch.dtype,
    park: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> list[CachedVideoKV]:
    """What the audio sees of each video, in `dtype`, on `park`, where the videos also wait between two blocks.

    It is what the network with both streams would compute if the video's attention to the audio were left out.
    `advance` is called after each block. What is stored beside a card is in pinned memory, so that it can be copied
    there without a wait; not yet run on a GPU. Raises `CheckpointError` as `load_transformer` does.
    """
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    with torch.device("meta"):
        half = Transformer(config, video=True, one_way=True)
    names = [name for name in checkpoint.names(PREFIX) if belongs(name, video=True, one_way=True)]
    checkpoint = checkpoint.subset(names)

    def load(module: nn.Module, prefix: str, claims: list[str]) -> None:
        load_module(module, checkpoint, file_name=lambda name: prefix + name, claims=claims, device=device, dtype=dtype)

    blocks, half.transformer_blocks = half.transformer_blocks, nn.ModuleList()
    load(half, PREFIX, [name for name in names if not name.startswith(PREFIX + _BLOCKS)])
    waiting: list[Tensor] = []
    watched = [
        _empty_kv(config, video, dtype, park, pinned=device.type == "cuda" and park.type == "cpu") for video in videos
    ]
    for index, block in enumerate(blocks):
        prefix = f"{PREFIX}{_BLOCKS}{index}."
        load(block, prefix, [name for name in names if name.startswith(prefix)])
        for which, video in enumerate(videos):
            x_BND, inputs = half.enter_one_way(_to(video, device))
            if index:
                x_BND = waiting[which].to(device)
            else:
                waiting.append(x_BND)
            x_BND, (keys_BHNK, values_BHNK) = block.forward_one_way(x_BND, inputs)  # type: ignore[operator]
            waiting[which] = x_BND.to(park)
            watched[which].keys_BLHNK[:, index] = keys_BHNK
            watched[which].values_BLHNK[:, index] = values_BHNK
        block.to("meta")
        advance()
    return watched


def video_kv_bytes(config: TransformerConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the `CachedVideoKV` of one video of so many tokens."""
    return 2 * config.layers * tokens * config.audio.width * dtype.itemsize


def _empty_kv(
    config: TransformerConfig, video: Stream, dtype: torch.dtype, park: torch.device, *, pinned: bool
) -> CachedVideoKV:
    batch, tokens, _ = video.latents_BTC.shape
    shape = batch, config.layers, config.audio.heads, tokens, config.audio.head_dim
    return CachedVideoKV(
        *(torch.empty(shape, dtype=dtype, device=park, pin_memory=pinned) for _ in fields(CachedVideoKV))
    )


def _to(video: Stream, device: torch.device) -> Stream:
    assert video.keep_BT is None
    return Stream(*(getattr(video, field.name).to(device) for field in fields(Stream) if field.name != "keep_BT"))
