"""One-way (frozen) video: clean videos that do not attend to the audio run through the video stream once.

In: a checkpoint and videos. Out: a `CachedVideoKV` for each, the keys and values that the audio attends to in every
block. The video stream takes 31 GB in the published model; here one block at a time is on the device, and all videos
pass through it before the next is loaded.

B batch, N video tokens, D video width, L blocks, H audio heads, K channels of an audio head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from sonolora.ltx.model.transformer import PREFIX, CachedVideoKV, Stream, Transformer, is_transformer_tensor
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
    storage_device: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> list[CachedVideoKV]:
    """Keys and values of each video in `dtype` on `storage_device`, which also holds the tokens between blocks.

    They equal those of the two-stream network with the video's attention to the audio removed. `advance` is called
    after each block. With a GPU, results on the host are in pinned memory for asynchronous copies; not yet run on a
    GPU. Raises `CheckpointError` as `load_transformer` does.
    """
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    with torch.device("meta"):
        video_half = Transformer(config, video=True, one_way=True)
    names = [name for name in checkpoint.names(PREFIX) if is_transformer_tensor(name, video=True, one_way=True)]
    checkpoint = checkpoint.local_file(names)

    def load(module: nn.Module, prefix: str, module_names: list[str]) -> None:
        load_module(
            module,
            checkpoint,
            checkpoint_name=lambda name: prefix + name,
            names=module_names,
            device=device,
            dtype=dtype,
        )

    blocks, video_half.transformer_blocks = video_half.transformer_blocks, nn.ModuleList()
    load(video_half, PREFIX, [name for name in names if not name.startswith(PREFIX + _BLOCKS)])
    tokens: list[Tensor] = []
    pinned = device.type == "cuda" and storage_device.type == "cpu"
    caches = [_empty_kv(config, video, dtype, storage_device, pinned=pinned) for video in videos]
    for index, block in enumerate(blocks):
        prefix = f"{PREFIX}{_BLOCKS}{index}."
        load(block, prefix, [name for name in names if name.startswith(prefix)])
        for which, video in enumerate(videos):
            x_BND, inputs = video_half.embed_one_way(_to(video, device))
            if index:
                x_BND = tokens[which].to(device)
            else:
                tokens.append(x_BND)
            x_BND, (keys_BHNK, values_BHNK) = block.forward_one_way(x_BND, inputs)  # type: ignore[operator]
            tokens[which] = x_BND.to(storage_device)
            caches[which].keys_BLHNK[:, index] = keys_BHNK
            caches[which].values_BLHNK[:, index] = values_BHNK
        block.to("meta")
        advance()
    return caches


def video_kv_bytes(config: TransformerConfig, tokens: int, dtype: torch.dtype) -> int:
    """Size in bytes of the `CachedVideoKV` of one video with this many tokens."""
    return 2 * config.layers * tokens * config.audio.width * dtype.itemsize


def _empty_kv(
    config: TransformerConfig, video: Stream, dtype: torch.dtype, device: torch.device, *, pinned: bool
) -> CachedVideoKV:
    batch, tokens, _ = video.latents_BTC.shape
    shape = batch, config.layers, config.audio.heads, tokens, config.audio.head_dim
    return CachedVideoKV(
        *(torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned) for _ in fields(CachedVideoKV))
    )


def _to(video: Stream, device: torch.device) -> Stream:
    tensors = {field.name: getattr(video, field.name) for field in fields(Stream)}
    return Stream(**{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})
