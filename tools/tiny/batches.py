"""Training crops of the corpus, from a cache on disk that a background process fills.

In: a folder. Out: stereo crops at 16 and 48 kHz. The crops of a step are a pure function of (seed, step), so a resumed
run equals an uninterrupted one; a step waits for crops that do not exist yet.

The cache has blocks with one clip of every kind of sound, as 16-bit arrays (kinds, 2, N), one file per sample rate.
Early steps draw from the first blocks only, so training can begin before the cache is full.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus import sound
from numpy.typing import NDArray
from sounds import KINDS
from torch import Tensor

from sonolora.core.atomic_files import atomic_write
from sonolora.core.randomness import generator
from sonolora.media.audio import resample

HIGH, LOW = 48_000, 16_000  # Hz
_FULL_SCALE = 32767
_STEPS_PER_BLOCK = 8  # slower than blocks are made
_NICE = 19
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Clips:
    """The cache: `blocks` blocks of clips of `seconds` from the corpus `seed`."""

    folder: Path
    seed: int = 0
    seconds: float = 3.0
    blocks: int = 60

    def make_in_background(self) -> None:
        """Start filling the cache; stops with this process, and the next call continues."""
        if not all(self._is_made(block) for block in range(self.blocks)):
            multiprocessing.get_context("spawn").Process(target=_make_all, args=(self,), daemon=True).start()

    def make(self, block: int) -> None:
        """Write one block. The 16 kHz file is written last and marks the block as complete."""
        made = [sound(self.seed, block * len(KINDS) + turn, self.seconds).audio for turn in range(len(KINDS))]
        self.folder.mkdir(parents=True, exist_ok=True)
        for rate in (HIGH, LOW):
            samples = np.stack([resample(audio, rate).samples for audio in made])
            rounded = np.round(samples.clip(-1, 1) * _FULL_SCALE).astype(np.int16)
            with atomic_write(self._path(block, rate)) as temporary:
                np.save(temporary, rounded)

    def crops(self, step: int, batch: int, seconds: float) -> tuple[Tensor, Tensor]:
        """Training batch number `step`: the same crops (batch, 2, N) at 16 kHz and (batch, 2, 3 N) at 48 kHz."""
        rng = generator(self.seed, "crops", step)
        blocks = min(self.blocks, 1 + step // _STEPS_PER_BLOCK)
        low, high = [], []
        for _ in range(batch):
            block, turn = divmod(int(torch.randint(blocks * len(KINDS), (), generator=rng)), len(KINDS))
            length = round(seconds * LOW)
            start = int(torch.randint(round(self.seconds * LOW) - length + 1, (), generator=rng))
            low.append(self._read(block, LOW)[turn, :, start : start + length])
            high.append(self._read(block, HIGH)[turn, :, 3 * start : 3 * (start + length)])
        return _to_float(low), _to_float(high)

    def block(self, number: int) -> Tensor:
        """The clips of one block at 16 kHz, (kinds, 2, N)."""
        return _to_float([self._read(number, LOW)])[0]

    def _read(self, block: int, rate: int) -> NDArray[np.int16]:
        while not self._is_made(block):
            time.sleep(_POLL_SECONDS)
        array: NDArray[np.int16] = np.load(self._path(block, rate), mmap_mode="r")
        return array

    def _is_made(self, block: int) -> bool:
        return self._path(block, LOW).exists()

    def _path(self, block: int, rate: int) -> Path:
        return self.folder / f"{self.seed}-{self.seconds:g}s-{block:05d}-{rate}.npy"


def _make_all(clips: Clips) -> None:
    os.nice(_NICE)
    for block in range(clips.blocks):
        if not clips._is_made(block):
            clips.make(block)


def _to_float(crops: list[NDArray[np.int16]]) -> Tensor:
    return torch.from_numpy(np.stack(crops)).float() / _FULL_SCALE
