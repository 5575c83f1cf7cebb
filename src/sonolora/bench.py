"""How long one training step takes here, and how long it would have to take: measured, nothing assumed.

In: a base, a device, and the size of the step. Out: a `Measurement` of each phase of `Trainer.step` on random
examples of the right shapes: time, FLOPs, the bytes that must move at least, and the floor that they put under it.

The floor of a phase is the larger of two times: its FLOPs at the speed of a large matrix product, and its bytes at
the speed of a large copy, both measured in the same process; within a phase one can hide behind the other. The
floor of the step is the sum over its phases, which cannot hide each other: the backward pass needs the loss, the
update the norm of all gradients. Weights that fit in the machine's cache may move faster than the copy.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sonolora import __version__
from sonolora.conditioning import Example
from sonolora.frames import frame_count
from sonolora.ltx.base import Base, find_base
from sonolora.ltx.lora import add_adapters
from sonolora.ltx.targets import AUDIO_TARGETS
from sonolora.ltx.text import load_tokenizer
from sonolora.ltx.transformer import Transformer, load_transformer
from sonolora.randomness import normal
from sonolora.runs.settings import compute_dtype, resolve_device
from sonolora.training.phases import PHASES, clock, flop_counter, marks, phase_times
from sonolora.training.trainer import Trainer, TrainingConfig

WHOLE = "step"
_SEED = 0
_LEARNING_RATE = 2e-4
_WARM_UP = 3
_TRIES = 5
_MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}


@dataclass(frozen=True)
class Phase:
    """One phase of the step, or the whole of it."""

    median_ms: float
    min_ms: float
    max_ms: float
    flops: int  # of matrix products and attention
    least_bytes: int  # as `least_bytes` counts them
    floor_ms: float
    share: float  # of the limit that is reached: floor / median


@dataclass(frozen=True)
class Limits:
    """What the machine does at best, measured."""

    flops_per_second: float  # of a large matrix product in the dtype of the run
    bytes_per_second: float  # of a large copy, bytes read and bytes written together


@dataclass(frozen=True)
class Measurement:
    """One measured step; `phases` are `PHASES` and `WHOLE`."""

    base: str
    base_fingerprint: str
    rank: int
    seconds: float
    batch_size: int
    steps: int
    audio_tokens: int  # of one example
    text_tokens: int
    frozen_parameters: int
    trained_parameters: int
    device: str
    dtype: str
    threads: int
    versions: Mapping[str, str]
    limits: Limits
    phases: Mapping[str, Phase]


def measure_step(base: str, device: str, *, rank: int, seconds: float, batch_size: int, steps: int) -> Measurement:
    """Take `steps` training steps of the audio stream, after a few to warm up, and measure them.

    `base` and `device` are as in `RunSettings`. Raises `SonoloraError` where a run would.
    """
    where = resolve_device(device)
    dtype = compute_dtype(where)
    found = find_base(base)
    model = load_transformer(found.checkpoint, video=False, device=where, dtype=dtype)
    adapters = add_adapters(model, AUDIO_TARGETS, rank, _SEED)
    examples = _random_examples(found, model, seconds, batch_size, where, dtype)
    config = TrainingConfig(1 + _WARM_UP + steps, _LEARNING_RATE, _SEED, batch_size=batch_size)
    trainer = Trainer(model, adapters, examples, config)

    flops, moved = _count(trainer, model)
    phase_times(trainer, model, where, _WARM_UP)
    times = phase_times(trainer, model, where, steps)
    limits = machine_limits(where, dtype)
    floors = [
        1000 * max(count / limits.flops_per_second, size / limits.bytes_per_second)
        for count, size in zip(flops, moved, strict=True)
    ]
    phases = {
        name: _phase([step[at] for step in times], flops[at], moved[at], floors[at]) for at, name in enumerate(PHASES)
    }
    phases[WHOLE] = _phase([sum(step) for step in times], sum(flops), sum(moved), sum(floors))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    example = examples[0]
    return Measurement(
        base=base,
        base_fingerprint=found.fingerprint,
        rank=rank,
        seconds=seconds,
        batch_size=batch_size,
        steps=steps,
        audio_tokens=example.latents_BTC.shape[1],
        text_tokens=example.context_BSD.shape[1],
        frozen_parameters=sum(parameter.numel() for parameter in model.parameters()) - trained,
        trained_parameters=trained,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else cpu_name(),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        versions={"sonolora": __version__, "torch": torch.__version__, "python": platform.python_version()},
        limits=limits,
        phases=phases,
    )


def table(measured: Measurement) -> str:
    """The measurement in lines for a person."""
    m, limits = measured, measured.limits
    lines = [
        f"{m.steps} training steps of {m.base}: {m.seconds:g} s of sound, batch {m.batch_size}, rank {m.rank}",
        f"{m.device}, {m.dtype}, CPU threads: {m.threads}, torch {m.versions['torch']}",
        f"tokens      {m.audio_tokens} audio frames + {m.text_tokens} text tokens",
        f"parameters  {m.frozen_parameters:,} frozen, {m.trained_parameters:,} trained",
        f"limits      {limits.flops_per_second / 1e9:,.0f} GFLOP/s in a large matrix product, "
        f"{limits.bytes_per_second / 1e9:,.1f} GB/s in a large copy",
        "",
        f"{'':<9}{'median ms':>10}{'min':>9}{'max':>9}{'GFLOP':>10}{'MB':>10}{'floor ms':>10}{'reached':>9}",
    ]
    for name, phase in m.phases.items():
        lines.append(
            f"{name:<9}{phase.median_ms:>10.2f}{phase.min_ms:>9.2f}{phase.max_ms:>9.2f}{phase.flops / 1e9:>10.2f}"
            f"{phase.least_bytes / 1e6:>10.1f}{phase.floor_ms:>10.2f}{phase.share:>9.1%}"
        )
    return "\n".join(lines)


def _random_examples(
    base: Base, model: Transformer, seconds: float, count: int, device: torch.device, dtype: torch.dtype
) -> list[Example]:
    frames = frame_count(seconds)
    places = load_tokenizer(base.checkpoint, base.text_encoder).max_tokens
    audio = model.config.audio
    return [
        Example(
            normal((1, frames, audio.channels), _SEED, "latents", index),
            normal((1, places, audio.context_dim), _SEED, "context", index).to(dtype),
        ).to(device)
        for index in range(count)
    ]


def _count(trainer: Trainer, model: Transformer) -> tuple[list[int], list[int]]:
    """FLOPs and least bytes of each phase, from one step."""
    kept: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor.detach()

    with flop_counter() as counter, saved_tensors_hooks(pack, lambda tensor: tensor):
        counts = marks(trainer, model, counter.get_total_flops, 1)
    return [after - before for before, after in pairwise(counts)], least_bytes(model, kept)


def least_bytes(model: Transformer, kept: set[int]) -> list[int]:
    """Bytes that each phase of a step must read and write at least, however it is programmed.

    Forward: every parameter is read. Backward: those that autograd kept are read again (`kept` holds the addresses
    of their storages; the weights of the text's keys and values, for instance, are not needed again), and every
    gradient is written. Update: AdamW reads gradient, value and two moments, and writes value and moments.
    Activations are left out: they need not leave the cache.
    """
    parameters = list(model.parameters())
    values = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    again = sum(parameter.nbytes for parameter in parameters if parameter.untyped_storage().data_ptr() in kept)
    return [sum(parameter.nbytes for parameter in parameters), again + values, (4 + 3) * values]


def machine_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """The best of a few large matrix products and of a few large copies."""
    size, copied = _MATMUL_SIZE[device.type], _COPIED_BYTES[device.type]
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    product = torch.empty_like(left)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Limits(
        flops_per_second=2 * size**3 / _best_seconds(device, lambda: torch.mm(left, right, out=product)),
        bytes_per_second=2 * copied / _best_seconds(device, lambda: target.copy_(source)),
    )


def _best_seconds(device: torch.device, work: Callable[[], Tensor]) -> float:
    mark, elapsed = clock(device)
    moments = [mark()]
    for _ in range(1 + _TRIES):
        work()
        moments.append(mark())
    return min(elapsed(*pair) for pair in pairwise(moments)) / 1000


def _phase(times: list[float], flops: int, moved: int, floor_ms: float) -> Phase:
    return Phase(median(times), min(times), max(times), flops, moved, floor_ms, floor_ms / median(times))


def cpu_name() -> str:
    """What the processor calls itself, or at least its architecture."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
