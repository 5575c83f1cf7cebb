"""One-way videos: the examples of a run, or of one sound, with the video's keys and values computed once and cached.

In: examples with a `Video`. Out: the same with `CachedVideoKV`, and the device that holds them: the run's when there is
room for all, else pinned host memory, from which each is copied when it is needed. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sonolora.conditioning import Example, Video, map_tensors
from sonolora.core.errors import InputError
from sonolora.core.progress import Progress
from sonolora.data.prepared import Prepared
from sonolora.ltx.model.frozen_video import cache_video_kv, video_kv_bytes
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.memory_fit import available_bytes
from sonolora.planning.needs import count_needs
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.run import Run

_CPU = torch.device("cpu")


def cache_videos(run: Run, prepared: Prepared, networks: Networks, progress: Progress) -> tuple[Prepared, torch.device]:
    """All examples and previews of a run, watched; and where they are. Raises `InputError` when there is no room."""
    checkpoint, device, dtype = networks.base.checkpoint, networks.device, networks.dtype
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    examples = [*prepared.examples, *(item.example for item in prepared.previews)]
    sizes = [
        video_kv_bytes(config, one.video.latents_BNC.shape[1], dtype)
        for one in examples
        if isinstance(one.video, Video)
    ]
    place = _place(run, device, sizes)
    progress.phase("watching the films", config.layers)
    watched = iter(
        with_cached_videos(examples, checkpoint, device=device, dtype=dtype, place=place, advance=progress.advance)
    )
    where = "on the device" if place == device else "in the host's memory"
    what = f"{len(prepared.examples)} films" + (f" and {len(prepared.previews)} previews" if prepared.previews else "")
    progress.message(f"what the audio sees of {what}: {sum(sizes) / 1e9:,.2f} GB {where}")
    return (
        replace(
            prepared,
            examples=tuple(next(watched) for _ in prepared.examples),
            previews=tuple(replace(item, example=next(watched)) for item in prepared.previews),
        ),
        place,
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
    seen = cache_video_kv(checkpoint, videos, device=device, dtype=dtype, storage_device=place, advance=advance)
    placed = [replace(example, video=video).to(place) for example, video in zip(examples, seen, strict=True)]
    if device.type == "cuda" and place.type == "cpu":  # all of it, so that no copy waits
        return [map_tensors(lambda parts: parts[0].pin_memory(), example) for example in placed]
    return placed


def _place(run: Run, device: torch.device, sizes: Sequence[int]) -> torch.device:
    """The device, if all that a run needs fits beside them; else the host."""
    if device.type == "cuda":
        needs = count_needs(BaseShape.of(run.base), run.mode, run.request, run.settings, device)
        if needs.peak + sum(sizes) <= available_bytes(device):
            return device
        # Keys and values are half of it each, and torch pins memory in powers of two.
        sizes = [2 << (size // 2 - 1).bit_length() for size in sizes]
    if sum(sizes) > (free := available_bytes(_CPU)):
        raise InputError.of(
            "number_of_frames",
            f"what the audio sees of {len(sizes)} films takes {sum(sizes) / 1e9:,.1f} GB of the host's memory, where "
            f"{free / 1e9:,.1f} GB are free: give fewer clips, a lower resolution or number_of_frames, or "
            "--v2a-video joint",
        )
    return _CPU
