"""How much of one sound returns in another: the largest normalised cross-correlation of patches of their log-mels.

In: waveforms. Out: patterns, and likenesses from 0 to 1. A pattern is a log-mel without what many sounds have in
common: each band's mean over the 0.2 s around it is subtracted, so that an envelope or a hum alone is like nothing, and
from a patch its own means over time and over bands. Level, equalisation and time do not matter. A likeness says nothing
by itself: kinds of sound differ in how alike their members are. It is compared with that of sounds known to be new.

M frames of 20 ms, F mel bands, P frames of a patch, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sonolora.analysis.likeness import log_mel
from sonolora.media.audio import Waveform, peak_normalized

FRAME_SECONDS = 0.02
_PATCH = 50  # frames; a shorter sound is one patch
_MIN_PATCH = 12
_AROUND = 11  # frames
_STRIDE = 12  # frames between the patches of a sound that is looked for
_DEAD_DB = 1.0  # deviations of this size are noise; they lower the likeness
_CLEARLY = 0.3  # of the way from the most alike of the new sounds to a sound itself, from which one is called a copy


def pattern(sound: Waveform) -> Tensor:
    """(M, F) float32, in dB."""
    levels_MF = log_mel(peak_normalized(sound), FRAME_SECONDS)
    padded = F.pad(levels_MF.T[None], (_AROUND // 2, _AROUND // 2), mode="replicate")
    return levels_MF - F.avg_pool1d(padded, _AROUND, 1)[0].T


def likenesses(patterns: Sequence[Tensor], clip_MF: Tensor) -> list[float]:
    """For each pattern how much its most alike patch is like the place of the clip where it fits best."""
    found = [0.0] * len(patterns)
    by_length: dict[int, list[int]] = {}
    for index, one in enumerate(patterns):
        by_length.setdefault(min(_PATCH, len(one), len(clip_MF)), []).append(index)
    for length, indices in by_length.items():
        if length < _MIN_PATCH:
            continue
        places = _patches(clip_MF, length, 1)
        parts = [_patches(patterns[index], length, _STRIDE) for index in indices]
        best = (torch.cat(parts) @ places.T).amax(1)
        for index, likeness in zip(indices, torch.split(best, [len(part) for part in parts]), strict=True):
            found[index] = max(0.0, likeness.max().item())
    return found


def _patches(pattern_MF: Tensor, length: int, stride: int) -> Tensor:
    """(N, P F), centred, of norm 1 but for what is noise."""
    patches = pattern_MF.float().unfold(0, length, stride)  # (N, F, P)
    patches = patches - patches.mean(2, keepdim=True)
    patches = (patches - patches.mean(1, keepdim=True)).flatten(1)
    noise = patches.shape[1] * _DEAD_DB**2
    return patches / (patches.square().sum(1, keepdim=True) + noise).sqrt()


def is_copy(likeness: float, new: Sequence[float]) -> bool:
    """Whether a sound is clearly more like a clip than any sound that is known to be new; False without such sounds."""
    return bool(new) and likeness > max(new) + _CLEARLY * (1 - max(new))
