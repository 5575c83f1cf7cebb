"""Memory and FLOPs of a run's work, without the weights: counted by running its own code on the meta device.

In: a base's shape, the tokens of an example, a device type. Out: bytes and FLOPs of a training step, of a sampling step
and of encoding. Both steps run with two and with three layers and are extrapolated: from the second on
layers are alike, and every figure grows by the same amount with each. Of layers that are recomputed the last ones
decide the peak of a few, so it takes four and five of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sonolora.conditioning import Example, Video
from sonolora.core.devices import compute_dtype
from sonolora.core.frames import FRAMES_PER_LATENT, PIXELS_PER_LATENT, encoded_seconds
from sonolora.ltx.lora.adapters import add_stacked_adapters
from sonolora.ltx.memory.weight_policy import PLAIN, WeightPolicy
from sonolora.ltx.model.layers import Attention
from sonolora.ltx.model.transformer import CachedVideoKV, Transformer
from sonolora.ltx.text.text_encoder import Tokenizer
from sonolora.modes.preview_spec import VideoFormat
from sonolora.planning.allocations import Allocations
from sonolora.planning.base_shape import META, BaseShape
from sonolora.planning.meta_kernels import bind_device_kernels, device_kernels
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings, sample
from sonolora.training.loss import flow_losses
from sonolora.training.step_phases import flop_counter, read_phases
from sonolora.training.trainer import Trainer, TrainingConfig

_COUNTED, _COUNTED_RECOMPUTED = 2, 4  # layers


@dataclass(frozen=True)
class Work:
    """Without the weights."""

    bytes: int  # at the peak
    flops: int


@dataclass(frozen=True)
class Tokens:
    """The shape of one example. The number of text tokens is the base's."""

    audio: int  # latent frames of the target
    reference: int = 0  # latent frames before it
    kept: bool = False  # whether parts of the target are conditioning
    video_format: VideoFormat | None = None
    one_way: bool = False  # whether the video is given as cached keys and values

    @property
    def joint(self) -> bool:
        """Whether the video stream runs beside the audio stream."""
        return self.video_format is not None and not self.one_way

    @property
    def video(self) -> int:
        """Video tokens."""
        if (video := self.video_format) is None:
            return 0
        frames = (video.frames - 1) // FRAMES_PER_LATENT + 1
        return frames * (video.height // PIXELS_PER_LATENT) * (video.width // PIXELS_PER_LATENT)


@dataclass(frozen=True)
class StepBytes:
    """Bytes of a training step without the weights, with one example on the device."""

    example: int
    adapters: int  # A and B
    resident: int  # between two steps: example, adapters, gradients and both moments
    activations: int  # saved by the forward pass for the backward pass
    peak: int


@dataclass(frozen=True)
class Step:
    """What the cost of a training step depends on, besides the base."""

    targets: tuple[str, ...]
    rank: int
    tokens: Tokens
    batch_size: int = 1
    policy: WeightPolicy = PLAIN
    members: int = 1  # LoRAs that are trained at once


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of matrix products and attention."""

    forward: int
    whole: int


def make_example(
    shape: BaseShape, tokens: Tokens, device: torch.device, dtype: torch.dtype, layers: int | None = None
) -> Example:
    """An example of that shape with random values, or none on meta. `layers`: of the cached video, all by default."""
    config, text = shape.transformer_config, shape.context_tokens

    def values(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(1, *size, dtype=dtype, device=device)

    def video() -> Video | CachedVideoKV | None:
        if tokens.video_format is None:
            return None
        if tokens.one_way:
            size = layers or config.layers, config.audio.heads, tokens.video, config.audio.head_dim
            return CachedVideoKV(values(*size, dtype=dtype), values(*size, dtype=dtype))
        return Video(
            values(tokens.video, config.video.channels),
            values(len(config.video.max_positions), tokens.video),
            values(text, config.video.context_dim, dtype=dtype),
        )

    return Example(
        values(tokens.audio, config.audio.channels),
        values(text, config.audio.context_dim, dtype=dtype),
        torch.zeros(1, tokens.audio, dtype=torch.bool, device=device) if tokens.kept else None,
        values(tokens.reference, config.audio.channels) if tokens.reference else None,
        video(),
    )


def step_bytes(shape: BaseShape, step: Step, device_type: str) -> StepBytes:
    """Memory of every step after the first."""
    return _step_bytes(shape, replace(step, policy=_counted(step.policy, shape)), device_type)


@lru_cache
def _step_bytes(shape: BaseShape, step: Step, device_type: str) -> StepBytes:
    def count(layers: int, recomputed: int) -> tuple[int, ...]:
        policy = replace(step.policy, checkpointed_blocks=recomputed)
        model = _model(shape, layers, step.tokens, device_type, policy)
        with device_kernels(device_type), Allocations(META.type) as live:
            trainer, example = _trainer(shape, model, step)
            before, forward, backward, update = read_phases(trainer, model, lambda: (live.now, live.take_peak()), 1)
        adapters = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        resident, moments = update[0], 2 * adapters
        # This was the first step; in later ones the moments exist before. The fused update has no workspace; that of
        # the meta device, which has none, is as large as the adapters.
        peak = max(forward[1] + moments, backward[1] + moments, resident)
        return example, adapters, resident, forward[0] - before[0], peak

    return StepBytes(*_of_all_layers(count, shape, step.policy.checkpointed_blocks))


def step_flops(shape: BaseShape, step: Step, device_type: str) -> StepFlops:
    """FLOPs of one step."""
    return _step_flops(shape, replace(step, policy=_counted(step.policy, shape)), device_type)


@lru_cache
def _step_flops(shape: BaseShape, step: Step, device_type: str) -> StepFlops:
    def count(layers: int, recomputed: int) -> tuple[int, ...]:
        policy = replace(step.policy, checkpointed_blocks=recomputed)
        model = _model(shape, layers, step.tokens, device_type, policy)
        with device_kernels(device_type), flop_counter() as counter:
            trainer, _ = _trainer(shape, model, step)
            _, forward, _, whole = read_phases(trainer, model, counter.get_total_flops, 1)
        return forward, whole

    return StepFlops(*_of_all_layers(count, shape, step.policy.checkpointed_blocks))


def _counted(policy: WeightPolicy, shape: BaseShape) -> WeightPolicy:
    """The same work. Without the weights it does not matter where they wait, only how many blocks are recomputed."""
    recomputed = policy.recomputed(shape.transformer_config.layers)
    return replace(policy, gradient_checkpointing=False, checkpointed_blocks=recomputed, offloaded=False)


def _model(
    shape: BaseShape, layers: int, tokens: Tokens, device_type: str, policy: WeightPolicy = PLAIN
) -> Transformer:
    dtype = compute_dtype(torch.device(device_type))
    model = shape.transformer(layers, dtype, video=tokens.joint, one_way=tokens.one_way, policy=policy)
    for block in list(model.transformer_blocks)[: policy.recomputed(layers)]:
        bind_device_kernels(block, device_type)
    return model


def _trainer(shape: BaseShape, model: Transformer, step: Step) -> tuple[Trainer, int]:
    """A trainer on meta, and the bytes of its only example."""
    example, size = _example(shape, model, step.tokens)
    adapters = add_stacked_adapters(model, step.targets, [step.rank] * step.members, 0)
    config = TrainingConfig(steps=1, learning_rate=1.0, seed=0, batch_size=step.batch_size)
    return Trainer(model, adapters, [example], config, learning_rates=[1.0] * step.members), size


def _example(shape: BaseShape, model: Transformer, tokens: Tokens) -> tuple[Example, int]:
    """An example on meta, and its bytes."""
    with Allocations(META.type) as own:
        example = make_example(shape, tokens, META, model.get_parameter("audio_patchify_proj.weight").dtype)
    return example, own.now


@lru_cache
def preview_bytes(
    shape: BaseShape, tokens: Tokens, device_type: str, guidance: Guidance | None, policy: WeightPolicy = PLAIN
) -> int:
    """Bytes, without the weights, of a sampling step with this guidance; without guidance, of one evaluation loss.

    Layers reuse each other's memory: two of them need as much as all.
    """
    model = _model(shape, 2, tokens, device_type, policy)
    with Allocations(META.type) as live:
        _run_without_gradients(shape, model, tokens, device_type, guidance)
    return live.peak


@lru_cache
def preview_flops(shape: BaseShape, tokens: Tokens, device_type: str, guidance: Guidance | None) -> int:
    """FLOPs of the same."""

    def count(layers: int, _: int) -> tuple[int, ...]:
        model = _model(shape, layers, tokens, device_type)
        with flop_counter() as counter:
            _run_without_gradients(shape, model, tokens, device_type, guidance)
        return (counter.get_total_flops(),)

    return _of_all_layers(count, shape, 0)[0]


def _run_without_gradients(
    shape: BaseShape, model: Transformer, tokens: Tokens, device_type: str, guidance: Guidance | None
) -> None:
    with device_kernels(device_type), torch.inference_mode():
        example, _ = _example(shape, model, tokens)
        noise = torch.empty_like(example.latents_BTC)
        if guidance is None:
            flow_losses(model, example, noise, noise[:, 0, 0])
        else:
            negative_context = torch.empty_like(example.context_BSD)
            sample(model, example, negative_context, noise, SamplingSettings(1, guidance))


def _of_all_layers(count: Callable[[int, int], tuple[int, ...]], shape: BaseShape, recomputed: int) -> tuple[int, ...]:
    """The figures with all layers, extrapolated from `count(layers, how many of them are recomputed)` of a few."""
    plain = shape.transformer_config.layers - recomputed
    few_plain, few_recomputed = min(plain, _COUNTED), min(recomputed, _COUNTED_RECOMPUTED)

    def with_few(more_plain: int, more_recomputed: int) -> tuple[int, ...]:
        again = few_recomputed + more_recomputed
        return count(few_plain + more_plain + again, again)

    start = result = with_few(0, 0)
    for rest, more in ((plain - few_plain, (1, 0)), (recomputed - few_recomputed, (0, 1))):
        if rest:
            each = with_few(*more)
            result = tuple(a + rest * (b - c) for a, b, c in zip(result, each, start, strict=True))
    return result


@lru_cache
def decoding(shape: BaseShape, frames: int) -> Work:
    """Of decoding latents to audio."""
    codec = shape.codec
    with _counted_work() as work:
        codec.decode(torch.empty(1, frames, codec.channels, device=META))
    return work()


@lru_cache
def encoding(shape: BaseShape, tokens: Tokens, device_type: str) -> Work:
    """Of encoding a clip, once its audio and once its video."""
    codec = shape.codec
    samples = round(encoded_seconds(tokens.audio) * codec.sample_rate)
    with _counted_work() as sound:
        codec.encode(torch.empty(1, 2, samples, device=META))
    if (video := tokens.video_format) is None:
        return sound()
    dtype = compute_dtype(torch.device(device_type))
    encoder = shape.video_encoder(dtype)
    with device_kernels(device_type), torch.no_grad(), _counted_work() as pictures:
        pixels = torch.empty(video.frames, video.height, video.width, 3, dtype=torch.uint8, device=META)
        encoder.encode(pixels.permute(3, 0, 1, 2)[None].to(dtype) / 127.5 - 1)
    return Work(max(sound().bytes, pictures().bytes), sound().flops + pictures().flops)


@lru_cache
def video_caching(shape: BaseShape, tokens: Tokens, device_type: str) -> tuple[int, Work]:
    """Of caching a video's keys and values: bytes of the weights on the device (one block of all); everything else."""
    dtype = compute_dtype(torch.device(device_type))
    model = shape.transformer(1, dtype, video=True, one_way=True)
    video = make_example(shape, replace(tokens, one_way=False), META, dtype).video
    assert isinstance(video, Video)
    with device_kernels(device_type), torch.no_grad(), _counted_work() as work:
        model.transformer_blocks[0].forward_one_way(*model.embed_one_way(video.stream))  # type: ignore[operator]
    # The next block's weights are joined beside this, one product at a time.
    products = [joint for one in model.modules() if isinstance(one, Attention) for _, joint in one.joint.values()]
    joining = max(sum(tensor.nbytes for tensor in joint.frozen) for joint in products)
    block = work()
    flops = block.flops * shape.transformer_config.layers
    return sum(parameter.nbytes for parameter in model.parameters()), Work(block.bytes + joining, flops)


@lru_cache
def text_encoding(shape: BaseShape, device_type: str, *, video: bool) -> Work:
    """Of encoding a text of the greatest length, with the weights, which are loaded layer by layer."""
    tokenizer = Tokenizer(_LongestText(shape.context_tokens), shape.context_tokens)
    encoder = shape.text_encoder(tokenizer, compute_dtype(torch.device(device_type)), video=video)
    with device_kernels(device_type), _counted_work() as work:
        encoder.encode([""])
    return work()


@contextmanager
def _counted_work() -> Iterator[Callable[[], Work]]:
    """What runs inside, once it is over."""
    with Allocations(META.type) as live, flop_counter() as counter:
        yield lambda: Work(live.peak, counter.get_total_flops())


class _LongestText:
    """A tokenizer for which every text is as long as a context."""

    bos_token_id = 0

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, *_: Any, **__: Any) -> dict[str, list[int]]:
        return {"input_ids": [0] * (self._tokens - 1)}
