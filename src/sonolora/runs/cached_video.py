"""One-way videos: examples whose video is replaced by the keys and values that the audio attends to, computed once.

In: examples with a `Video`. Out: the same with `CachedVideoKV`, on the device if there is room for all, else in pinned
host memory. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sonolora.conditioning import Example, Video, move_examples
from sonolora.core.cancellation import CancelToken
from sonolora.core.progress import Progress
from sonolora.data.prepared import Prepared
from sonolora.ltx.model.frozen_video import cache_video_kv, video_kv_bytes
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.runs.example_placement import example_device
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.run import Run


def cache_videos(run: Run, prepared: Prepared, networks: Networks, progress: Progress, cancel: CancelToken) -> Prepared:
    """All examples and previews of a run with cached videos, where they stay.

    Raises `InputError` when there is no room for them, `StopRequestedError` between two blocks.
    """
    checkpoint, device, dtype = networks.base.checkpoint, networks.device, networks.dtype
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    held_out = prepared.held_out
    examples = [*prepared.examples, *held_out.examples, *(item.example for item in prepared.previews)]
    sizes = [
        video_kv_bytes(config, one.video.latents_BNC.shape[1], dtype) // 2  # keys and values are a tensor each
        for one in examples
        if isinstance(one.video, Video)
        for _ in ("keys", "values")
    ]
    advice = "give fewer clips, a lower resolution or number_of_frames, or --v2a-video joint"
    place = example_device(run, device, sizes, "number_of_frames", advice)
    progress.phase("caching the videos", config.layers)
    cancel.check()
    block_done = cancel.after(progress.advance)
    cached = iter(with_cached_videos(examples, checkpoint, device=device, dtype=dtype, place=place, advance=block_done))
    where = "on the device" if place == device else "in host memory"
    what = f"{len(prepared.examples) + len(held_out.examples)} videos" + (
        f" and {len(prepared.previews)} previews" if prepared.previews else ""
    )
    progress.message(f"keys and values of {what}: {sum(sizes) / 1e9:,.2f} GB {where}")
    return replace(
        prepared,
        examples=tuple(next(cached) for _ in prepared.examples),
        held_out=replace(held_out, examples=tuple(next(cached) for _ in held_out.examples)),
        previews=tuple(replace(item, example=next(cached)) for item in prepared.previews),
    )


def with_cached_videos(
    examples: Sequence[Example],
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    place: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> list[Example]:
    """Examples on `place`, their `Video` replaced by its `CachedVideoKV`. `advance` is called after each block."""
    videos = [example.video.stream for example in examples if isinstance(example.video, Video)]
    cached = cache_video_kv(checkpoint, videos, device=device, dtype=dtype, storage_device=place, advance=advance)
    pin = device.type == "cuda" and place.type == "cpu"  # all of it, so that no copy waits
    return move_examples(
        [replace(example, video=video) for example, video in zip(examples, cached, strict=True)], place, pin=pin
    )
