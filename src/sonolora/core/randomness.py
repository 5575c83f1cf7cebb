"""Randomness as a pure function of a key: no generator state exists that could be lost or drift.

In: a key such as (seed, "noise", step, slot). Out: a generator, or numbers, that depend on nothing else. Numbers are
always drawn on the CPU, so that they are the same whatever device trains.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose whole state follows from `key`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.randn(shape, generator=generator(*key))
