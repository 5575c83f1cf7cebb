"""The data class of all six modes, and the function that turns it into model inputs.

In: an `Example` (clean latents and conditioning) and the noisy target. Out: the velocity of the target's frames.
Training, previews and `generate` all use it, so that a preview cannot drift from real inference.

B batch, T target frames (25 a second), R reference frames, N video tokens, X axes of a position, S text tokens,
D context width, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sonolora.core.frames import OVERLAP, frame_bounds, reference_offset
from sonolora.ltx.memory.device_constants import on_device
from sonolora.ltx.model.transformer import NO_BLOCKS, CachedVideoKV, Stream, Transformer, audio_token_midpoints


@dataclass(frozen=True)
class Video:
    """A clean video beside the audio: never noised, without a loss."""

    latents_BNC: Tensor
    positions_BXN: Tensor  # middles of the tokens: seconds, height and width in pixels
    context_BSD: Tensor  # text context of the video stream

    @property
    def stream(self) -> Stream:
        """The input of the video stream, with sigma 0."""
        sigma_B = torch.zeros_like(self.latents_BNC[:, 0, 0], dtype=torch.float32)
        return Stream(self.latents_BNC, self.positions_BXN, sigma_B, self.context_BSD)


@dataclass(frozen=True)
class Example:
    """One batch of training or generation; every tensor has a leading batch axis."""

    latents_BTC: Tensor  # clean target frames; in generation only kept frames are used
    context_BSD: Tensor  # text context of the audio stream
    keep_BT: Tensor | None = None  # frames that stay clean: timestep 0, no loss
    reference_BRC: Tensor | None = None  # clean frames before the target
    video: Video | CachedVideoKV | None = None  # `CachedVideoKV`: a one-way video
    reference_middles_BR: Tensor | None = None  # of its frames in seconds; None: from 0 s, as those of the target

    def to(self, device: torch.device) -> Example:
        """The same example with every tensor on `device`."""
        return map_tensors(lambda parts: parts[0].to(device, non_blocking=True), self)


def with_reference_positions(example: Example, positions: str) -> Example:
    """The example with its reference at these of `REFERENCE_POSITIONS`; as it is without one."""
    if example.reference_BRC is None or positions == OVERLAP:
        return example
    batch, frames, _ = example.reference_BRC.shape
    middles_R = (torch.tensor(frame_bounds(frames)) + reference_offset(frames, positions)).mean(dim=-1)
    return replace(example, reference_middles_BR=middles_R.to(example.reference_BRC.device).expand(batch, -1))


def with_text(example: Example, audio_BSD: Tensor, video_BSD: Tensor | None) -> Example:
    """The example with other text contexts. A one-way video keeps the one that it was computed with."""
    video = example.video
    if isinstance(video, Video) and video_BSD is not None:
        video = replace(video, context_BSD=video_BSD)
    return replace(example, context_BSD=audio_BSD, video=video)


def collate(examples: Sequence[Example]) -> Example:
    """Examples of equal lengths and parts, joined along the batch axis; a single one as it is."""
    return examples[0] if len(examples) == 1 else map_tensors(torch.cat, *examples)


def map_tensors(join: Callable[[list[Tensor]], Tensor], *examples: Example) -> Example:
    """An example of `join` applied to the tensors that the examples have in the same field."""
    changed: dict[str, Any] = {}
    for field in fields(examples[0]):
        values = [getattr(example, field.name) for example in examples]
        if isinstance(values[0], Tensor):
            changed[field.name] = join(values)
        elif values[0] is not None:
            kind = type(values[0])
            changed[field.name] = kind(
                *(join([getattr(video, part.name) for video in values]) for part in fields(kind))
            )
    return replace(examples[0], **changed)


def move_examples(examples: Iterable[Example], device: torch.device, *, pin: bool = False) -> list[Example]:
    """Examples on a device, or in pinned host memory. Tensors that several share, such as contexts, stay shared."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}  # with the original, whose id is then not reused

    def move(parts: list[Tensor]) -> Tensor:
        (tensor,) = parts
        if id(tensor) not in moved:
            target = tensor.to(device)
            moved[id(tensor)] = tensor, target.pin_memory() if pin else target
        return moved[id(tensor)][1]

    return [map_tensors(move, example) for example in examples]


def distinct_tensors(examples: Iterable[Example]) -> Iterator[Tensor]:
    """All tensors of the examples, those that several share once."""
    tensors: dict[int, Tensor] = {}

    def collect(parts: list[Tensor]) -> Tensor:
        tensors[id(parts[0])] = parts[0]
        return parts[0]

    for example in examples:
        map_tensors(collect, example)
    yield from tensors.values()


def velocity(
    model: Transformer,
    example: Example,
    noisy_BTC: Tensor,
    sigma_B: Tensor,
    *,
    values_only_blocks: frozenset[int] = NO_BLOCKS,
    values_only_B: Tensor | None = None,
    context_index_B: Tensor | None = None,
) -> Tensor:
    """The model's velocity for the target's frames, (B, T, C), float32.

    Kept frames are taken from the example whatever `noisy_BTC` holds there. The reference comes before the target with
    its own positions: from 0 s as in the published trainer, or others (`with_reference_positions`). The sample's sigma
    is that of the noisy frames; only the timesteps of clean tokens are 0. With `context_index_B` the example has only
    the different text contexts of the audio stream, see `Stream`.
    """
    batch, frames, _ = noisy_BTC.shape
    keep = example.keep_BT
    tokens = noisy_BTC if keep is None else torch.where(keep[..., None], example.latents_BTC, noisy_BTC)
    middles = on_device(audio_token_midpoints, frames, device=tokens.device)
    if example.reference_BRC is not None:
        length = example.reference_BRC.shape[1]
        tokens = torch.cat([example.reference_BRC, tokens], dim=1)
        own = example.reference_middles_BR
        own = on_device(audio_token_midpoints, length, device=tokens.device).expand(batch, -1) if own is None else own
        middles = torch.cat([own, middles.expand(batch, -1)], dim=1)[:, None]
        clean = torch.ones(batch, length, dtype=torch.bool, device=tokens.device)
        keep = torch.cat(
            [clean, torch.zeros_like(noisy_BTC[..., 0], dtype=torch.bool) if keep is None else keep], dim=1
        )
    audio = Stream(tokens, middles.expand(batch, 1, -1), sigma_B, example.context_BSD, keep, context_index_B)
    video = example.video.stream if isinstance(example.video, Video) else example.video
    velocity_BTC, _ = model(
        audio, video, values_only_blocks=values_only_blocks, values_only_B=values_only_B, video_velocity=False
    )
    return velocity_BTC[:, -frames:].float()  # type: ignore[no-any-return]
