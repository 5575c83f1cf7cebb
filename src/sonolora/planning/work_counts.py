"""What the work of a run needs beside the weights: counted by doing it on the meta device, with the run's own code.

In: a base's shape, the tokens of an example, a type of device. Out: bytes and FLOPs of a training step and of a
preview, and bytes of what encodes. Step and preview are run with two and with three of the layers and extended to all:
from the second on layers are alike, and every figure grows by as much with each. Where blocks are computed again, the
last ones decide the peak of few layers, and it takes four and five.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sonolora.conditioning import Example, Video
from sonolora.core.devices import compute_dtype
from sonolora.core.frames import encoded_seconds
from sonolora.ltx.codec.video_encoder import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.memory.weight_policy import PLAIN, WeightPolicy
from sonolora.ltx.model.transformer import CachedVideoKV, Transformer
from sonolora.ltx.text.text_encoder import Tokenizer
from sonolora.modes.preview_spec import VideoFormat
from sonolora.planning.allocations import Allocations
from sonolora.planning.base_shape import META, BaseShape
from sonolora.planning.meta_kernels import always_as_on, kernels_of
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings, sample
from sonolora.training.loss import flow_losses
from sonolora.training.step_phases import flop_counter, marks
from sonolora.training.trainer import Trainer, TrainingConfig

_FEW = 2, 3  # layers
_FEW_RECOMPUTED = 4, 5


@dataclass(frozen=True)
class Tokens:
    """The shape of one example. The text's places are the base's."""

    audio: int  # latent frames of the target
    reference: int = 0  # latent frames in front of it
    kept: bool = False  # whether parts of the target are given
    film: VideoFormat | None = None
    one_way: bool = False  # whether the film does not hear the audio, and is given as keys and values

    @property
    def joint(self) -> bool:
        """Whether the video stream runs beside that of the audio."""
        return self.film is not None and not self.one_way

    @property
    def video(self) -> int:
        """Tokens of the film."""
        if self.film is None:
            return 0
        frames = (self.film.frames - 1) // FRAMES_PER_LATENT + 1
        return frames * (self.film.height // PIXELS_PER_LATENT) * (self.film.width // PIXELS_PER_LATENT)


@dataclass(frozen=True)
class StepBytes:
    """Bytes beside the weights of a training step, with one example on the device."""

    example: int
    adapters: int  # A and B
    held: int  # between two steps: example, adapters, gradients and both moments
    activations: int  # what the forward pass leaves for the backward pass
    peak: int


@dataclass(frozen=True)
class Step:
    """What a training step is made of."""

    targets: tuple[str, ...]
    rank: int
    tokens: Tokens
    batch_size: int = 1
    policy: WeightPolicy = PLAIN


@dataclass(frozen=True)
class StepFlops:
    """Of matrix products and attention."""

    forward: int
    whole: int


def make_example(
    shape: BaseShape, tokens: Tokens, device: torch.device, dtype: torch.dtype, layers: int | None = None
) -> Example:
    """An example of that shape with random values, or with none on the meta device; for so many layers, or all."""
    config, places = shape.transformer_config, shape.text_places

    def values(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(1, *size, dtype=dtype, device=device)

    def video() -> Video | CachedVideoKV | None:
        if tokens.film is None:
            return None
        if tokens.one_way:
            size = layers or config.layers, config.audio.heads, tokens.video, config.audio.head_dim
            return CachedVideoKV(values(*size, dtype=dtype), values(*size, dtype=dtype))
        return Video(
            values(tokens.video, config.video.channels),
            values(len(config.video.max_positions), tokens.video),
            values(places, config.video.context_dim, dtype=dtype),
        )

    return Example(
        values(tokens.audio, config.audio.channels),
        values(places, config.audio.context_dim, dtype=dtype),
        torch.zeros(1, tokens.audio, dtype=torch.bool, device=device) if tokens.kept else None,
        values(tokens.reference, config.audio.channels) if tokens.reference else None,
        video(),
    )


@lru_cache
def step_bytes(shape: BaseShape, step: Step, device_type: str) -> StepBytes:
    """Of every step after the first."""

    def with_layers(layers: int) -> tuple[int, ...]:
        model = _model(shape, layers, step.tokens, device_type, step.policy)
        with kernels_of(device_type), Allocations(META.type) as live:
            trainer, example = _trainer(shape, model, step)
            before, forward, backward, update = marks(trainer, model, lambda: (live.now, live.take_peak()), 1)
        adapters = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        held, moments = update[0], 2 * adapters
        # This was the first step; later the moments are there. What the update needs beside them is at most one
        # matrix, as meta and the CPU have it, and nothing in CUDA's one kernel for all.
        peak = max(forward[1] + moments, backward[1] + moments, update[1])
        return example, adapters, held, forward[0] - before[0], peak

    return StepBytes(
        *_extended(with_layers, shape, _FEW_RECOMPUTED if step.policy.uses_gradient_checkpointing else _FEW)
    )


@lru_cache
def step_flops(shape: BaseShape, step: Step, device_type: str) -> StepFlops:
    """Of one step."""

    def with_layers(layers: int) -> tuple[int, ...]:
        model = _model(shape, layers, step.tokens, device_type, step.policy)
        with kernels_of(device_type), flop_counter() as counter:
            trainer, _ = _trainer(shape, model, step)
            _, forward, _, whole = marks(trainer, model, counter.get_total_flops, 1)
        return forward, whole

    return StepFlops(*_extended(with_layers, shape, _FEW))


def _model(
    shape: BaseShape, layers: int, tokens: Tokens, device_type: str, policy: WeightPolicy = PLAIN
) -> Transformer:
    dtype = compute_dtype(torch.device(device_type))
    model = shape.transformer(layers, dtype, video=tokens.joint, one_way=tokens.one_way, policy=policy)
    for block in model.transformer_blocks if policy.uses_gradient_checkpointing else ():
        always_as_on(device_type, block)
    return model


def _trainer(shape: BaseShape, model: Transformer, step: Step) -> tuple[Trainer, int]:
    """A trainer on meta, and the bytes of its one example."""
    example, size = _example(shape, model, step.tokens)
    adapters = add_adapters(model, step.targets, step.rank, 0)
    config = TrainingConfig(steps=1, learning_rate=1.0, seed=0, batch_size=step.batch_size)
    return Trainer(model, adapters, [example], config), size


def _example(shape: BaseShape, model: Transformer, tokens: Tokens) -> tuple[Example, int]:
    """An example on meta, and its bytes."""
    with Allocations(META.type) as own:
        example = make_example(shape, tokens, META, model.get_parameter("audio_patchify_proj.weight").dtype)
    return example, own.now


@lru_cache
def preview_bytes(
    shape: BaseShape, tokens: Tokens, device_type: str, guidance: Guidance | None, policy: WeightPolicy = PLAIN
) -> int:
    """Bytes beside the weights of a step of the sampler with this guidance; without it, of a loss of the fixed grid.

    Layers pass their memory on: two of them need what all need.
    """
    model = _model(shape, 2, tokens, device_type, policy)
    with Allocations(META.type) as live:
        _look(shape, model, tokens, device_type, guidance)
    return live.peak


@lru_cache
def preview_flops(shape: BaseShape, tokens: Tokens, device_type: str, guidance: Guidance | None) -> int:
    """FLOPs of the same."""

    def with_layers(layers: int) -> tuple[int, ...]:
        model = _model(shape, layers, tokens, device_type)
        with flop_counter() as counter:
            _look(shape, model, tokens, device_type, guidance)
        return (counter.get_total_flops(),)

    return _extended(with_layers, shape, _FEW)[0]


def _look(shape: BaseShape, model: Transformer, tokens: Tokens, device_type: str, guidance: Guidance | None) -> None:
    with kernels_of(device_type), torch.inference_mode():
        example, _ = _example(shape, model, tokens)
        noise = torch.empty_like(example.latents_BTC)
        if guidance is None:
            flow_losses(model, example, noise, noise[:, 0, 0])
        else:
            negative_context = torch.empty_like(example.context_BSD)
            sample(model, example, negative_context, noise, SamplingSettings(1, guidance))


def _extended(count: Callable[[int], tuple[int, ...]], shape: BaseShape, numbers: tuple[int, int]) -> tuple[int, ...]:
    """What is counted with all layers, from what is counted with these numbers of them."""
    layers = shape.transformer_config.layers
    if layers <= max(numbers):
        return count(layers)
    few, more = map(count, numbers)
    return tuple(a + (b - a) * (layers - numbers[0]) for a, b in zip(few, more, strict=True))


@lru_cache
def decoding_bytes(shape: BaseShape, frames: int) -> int:
    """Bytes beside the weights while latents become sound."""
    codec = shape.codec
    with Allocations(META.type) as live:
        codec.decode(torch.empty(1, frames, codec.channels, device=META))
    return live.peak


@lru_cache
def encoding_bytes(shape: BaseShape, tokens: Tokens, device_type: str) -> int:
    """Bytes beside the weights while a clip becomes latents: its sound, or its film, whichever needs more."""
    codec = shape.codec
    samples = round(encoded_seconds(tokens.audio) * codec.sample_rate)
    with Allocations(META.type) as live:
        codec.encode(torch.empty(1, 2, samples, device=META))
    if tokens.film is None:
        return live.peak
    dtype = compute_dtype(torch.device(device_type))
    encoder, film = shape.video_encoder(dtype), tokens.film
    with kernels_of(device_type), torch.no_grad(), Allocations(META.type) as watched:
        pixels = torch.empty(film.frames, film.height, film.width, 3, dtype=torch.uint8, device=META)
        encoder.encode(pixels.permute(3, 0, 1, 2)[None].to(dtype) / 127.5 - 1)
    return max(live.peak, watched.peak)


@lru_cache
def video_caching_bytes(shape: BaseShape, tokens: Tokens, device_type: str) -> tuple[int, int]:
    """Bytes of what is there of the video's half while a film is watched: its ends and one block; and beside them."""
    dtype = compute_dtype(torch.device(device_type))
    half = shape.transformer(1, dtype, video=True, one_way=True)
    film = make_example(shape, replace(tokens, one_way=False), META, dtype).video
    assert isinstance(film, Video)
    with kernels_of(device_type), torch.no_grad(), Allocations(META.type) as live:
        half.transformer_blocks[0].forward_one_way(*half.embed_one_way(film.stream))  # type: ignore[operator]
    return sum(parameter.nbytes for parameter in half.parameters()), live.peak


@lru_cache
def text_bytes(shape: BaseShape, device_type: str, *, video: bool) -> int:
    """Bytes while a text as long as can be becomes contexts, with the weights, which come and go."""
    tokenizer = Tokenizer(_LongestText(shape.text_places), shape.text_places)
    encoder = shape.text_encoder(tokenizer, compute_dtype(torch.device(device_type)), video=video)
    with kernels_of(device_type), Allocations(META.type) as live:
        encoder.encode([""])
    return live.peak


class _LongestText:
    """In place of a tokenizer: every text is as long as a context."""

    bos_token_id = 0

    def __init__(self, places: int) -> None:
        self._places = places

    def __call__(self, *_: Any, **__: Any) -> dict[str, list[int]]:
        return {"input_ids": [0] * (self._places - 1)}
