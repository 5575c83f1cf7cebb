"""The corpus as latents and captions, from a cache on disk that a background process fills.

In: a folder and the encoders of the base. Out: blocks of clips of equal length. Sounds and videos come in several
lengths, so that the base learns more than one. A block has each kind equally often and is a pure function of its set
and number. Early steps draw from the first blocks only, so training can begin before the cache is full. The folder
belongs to one pair of encoders: delete it after retraining one of them.

B clips of a block, T audio frames, C channels of a latent, F H W video latents.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import sound
from films import FRAME_RATE, film
from scenes import KINDS as FILM_KINDS
from sounds import KINDS
from torch import Tensor

from sonolora.core.atomic_files import atomic_write
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.codec.video_encoder import VideoEncoder
from sonolora.media.audio import Waveform, resample

_NICE = 5
_POLL_SECONDS = 0.5
_FILMS_OF_A_KIND = 4
_SEEDS = 100  # first seed of the cached sets: no other script uses these


@dataclass(frozen=True)
class ClipSet:
    """Clips of one length: sounds of `seconds`, or videos of `frame_count` frames. `share`: of all batches."""

    name: str
    seconds: float
    share: float
    batch: int
    blocks: int
    frame_count: int | None = None


# About the same number of audio frames in every batch: they determine its time.
SETS = (
    ClipSet("sounds-2s", 2.0, 0.3, 12, 60),
    ClipSet("sounds-3s", 3.0, 0.3, 8, 60),
    ClipSet("sounds-5s", 5.0, 0.15, 5, 40),
    ClipSet("films-2s", 49 / FRAME_RATE, 0.1, 12, 40, frame_count=49),
    ClipSet("films-3s", 73 / FRAME_RATE, 0.1, 8, 40, frame_count=73),
    ClipSet("films-5s", 121 / FRAME_RATE, 0.05, 5, 30, frame_count=121),
)
SOUNDS = tuple(clips for clips in SETS if clips.frame_count is None)
FILMS = tuple(clips for clips in SETS if clips.frame_count is not None)


@dataclass(frozen=True)
class Block:
    """Clips of equal length: latents (B, T, C), captions, and video latents (B, C, F, H, W) of videos."""

    latents_BTC: Tensor
    captions: list[str]
    video_BCFHW: Tensor | None


@dataclass(frozen=True)
class Latents:
    """The cache in a folder."""

    folder: Path

    def make_in_background(
        self,
        sets: Sequence[ClipSet],
        load_codec: Callable[[], AudioCodec],
        load_video_encoder: Callable[[], VideoEncoder | None],
    ) -> None:
        """Start filling the cache with these sets; stops with this process, and the next call continues.

        The loaders run in the other process, which calls `load_video_encoder` until it returns one.
        """
        arguments = (self, sets, load_codec, load_video_encoder)
        multiprocessing.get_context("spawn").Process(target=_make_all, args=arguments, daemon=True).start()

    def block(self, clips: ClipSet, number: int) -> Block:
        """One block; waits until it exists."""
        path = self.path(clips, number)
        while not path.exists():
            time.sleep(_POLL_SECONDS)
        return _read(path)

    def path(self, clips: ClipSet, number: int) -> Path:
        return self.folder / f"{clips.name}-{number:03d}.pt"


@lru_cache(maxsize=1000)
def _read(path: Path) -> Block:
    stored = torch.load(path, weights_only=True)
    return Block(stored["latents"], stored["captions"], stored.get("video"))


@torch.no_grad()
def make_block(clips: ClipSet, number: int, codec: AudioCodec, video: VideoEncoder | None) -> dict[str, Any]:
    """Latents and captions of one block, as stored. Videos need the video encoder."""
    seed = _SEEDS + SETS.index(clips)
    if clips.frame_count is None:
        count = len(KINDS)
        made = [sound(seed, number * count + turn, clips.seconds) for turn in range(count)]
        return {"latents": _encoded([one.audio for one in made], codec), "captions": [one.caption for one in made]}
    count = _FILMS_OF_A_KIND * len(FILM_KINDS)
    films = [film(seed, number * count + turn, clips.frame_count) for turn in range(count)]
    assert video is not None
    seen = [_watched(one.frames, video) for one in films]
    return {
        "latents": _encoded([one.audio for one in films], codec),
        "captions": [one.caption for one in films],
        "video": torch.cat(seen).half(),
    }


def _encoded(sounds: list[Waveform], codec: AudioCodec) -> Tensor:
    rows = [codec.encode(torch.from_numpy(resample(one, codec.sample_rate).samples)[None]) for one in sounds]
    return torch.cat(rows).half()


def _watched(frames: np.ndarray[Any, np.dtype[np.uint8]], video: VideoEncoder) -> Tensor:
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return video.encode(pixels)


def _make_all(
    cache: Latents,
    sets: Sequence[ClipSet],
    load_codec: Callable[[], AudioCodec],
    load_video_encoder: Callable[[], VideoEncoder | None],
) -> None:
    os.nice(_NICE)
    torch.set_num_threads(1)
    codec, video = load_codec(), None
    cache.folder.mkdir(parents=True, exist_ok=True)
    for number in range(max(clips.blocks for clips in sets)):
        for clips in sets:
            path = cache.path(clips, number)
            if number >= clips.blocks or path.exists():
                continue
            while clips.frame_count is not None and video is None:
                video = load_video_encoder()
                time.sleep(_POLL_SECONDS)
            block = make_block(clips, number, codec, video)
            with atomic_write(path) as temporary:
                torch.save(block, temporary)
