"""How long a training step takes on this device, beside its roofline: measured, nothing assumed.

In: a base's shape, a mode's step, settings. Out: a `Measurement` of `Trainer.step` on random weights and examples of
the right shapes, which take as long as real ones: time by phase, FLOPs, the fewest bytes that must move, and the lower
bound that follows; operations, and memory beside what `work_counts` computes. FLOPs, and on a CPU operations and
memory, are those of the eager network, also where it runs compiled.

The lower bound of a phase is the larger of two times: its FLOPs at the speed of a large matrix product, and its bytes
at the speed of a large copy, both measured in the same process; within a phase they overlap. That of the step is the
sum over its phases, which do not: the backward pass needs the loss, the update the norm of all gradients. Weights that
fit in the machine's cache may move faster than the copy.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from sonolora import __version__
from sonolora.conditioning import collate
from sonolora.core.determinism import deterministic
from sonolora.core.devices import compute_dtype
from sonolora.ltx.model.transformer import Transformer
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.allocations import Allocations
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench.machine_limits import Limits, device_name, machine_limits
from sonolora.planning.bench.synthetic import synthetic_trainer
from sonolora.planning.needs import training_step
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import Step, make_example, step_bytes
from sonolora.training.loss import flow_losses
from sonolora.training.step_phases import PHASES, clock, flop_counter, phase_times, read_phases
from sonolora.training.trainer import Trainer

WHOLE = "step"
_UNCOUNTED = 2  # steps before the one that is counted; a graph is captured in the one after it
_WARM_UP = 2


@dataclass(frozen=True)
class Phase:
    """One phase of the step, or all of it."""

    median_ms: float
    min_ms: float
    max_ms: float
    flops: int  # of matrix products and attention
    least_bytes: int  # as `least_bytes` counts them
    floor_ms: float  # the lower bound
    share: float  # of the limit: floor / median


@dataclass(frozen=True)
class Plain:
    """A plain PyTorch loop around the model's loss, one step of it after each of `Trainer`."""

    median_ms: float
    times_as_long: float  # median of the paired steps


@dataclass(frozen=True)
class Measurement:
    """One measured step; `phases` are `PHASES` and `WHOLE`, or `WHOLE` alone where a graph is replayed."""

    mode: str
    base: str
    base_fingerprint: str
    layers: int
    rank: int
    batch_size: int
    options: tuple[str, ...]  # settings that are not the default
    steps: int
    audio_tokens: int  # of one example
    reference_tokens: int
    video_tokens: int
    text_tokens: int
    frozen_parameters: int
    trained_parameters: int
    device: str
    dtype: str
    threads: int
    versions: Mapping[str, str]
    limits: Limits
    phases: Mapping[str, Phase]
    operations: int  # kernels and copies on a GPU; on a CPU operations that reach a kernel or make a view
    peak_bytes: int  # with the weights, from the allocator
    computed_bytes: int  # the same from `work_counts`
    plain: Plain | None


def measure_step(
    shape: BaseShape,
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    *,
    rank: int,
    steps: int,
    plain: bool = False,
) -> Measurement:
    """Measure `steps` training steps, after a few to warm up.

    The base of the settings and the rank of the request are not used. Raises `SonoloraError` for settings that exclude
    each other and a device that is not there.
    """
    settings.check_mode(mode)
    with deterministic(settings.deterministic):
        return _measure(shape, mode, request, settings, rank, steps, plain)


def _measure(
    shape: BaseShape, mode: Mode, request: TrainRequest, settings: RunSettings, rank: int, steps: int, plain: bool
) -> Measurement:
    device = settings.place()
    dtype, step = compute_dtype(device), replace(training_step(mode, request, settings), rank=rank)
    layers = shape.transformer_config.layers
    with ExitStack() as stack:
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # before it there are no statistics to reset
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        else:
            stack.enter_context(_eager())
            live = stack.enter_context(Allocations(device.type))
        trainer, model = synthetic_trainer(shape, layers, step, device, static=settings.cuda_graph)
        for _ in range(_UNCOUNTED):
            trainer.step()
    flops, moved = _count(trainer, model)
    for _ in range(_WARM_UP):
        trainer.step()
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else live.peak
    if settings.cuda_graph:
        times = [[time] for (time,) in _in_turn([trainer.step], device, steps)]
    else:
        times = phase_times(trainer, model, device, steps)
    plain_loop = _plain(trainer, model, shape, step, device, steps) if plain else None
    operations = _operations(trainer, device)
    limits = machine_limits(device, dtype)
    floors = [
        1000 * max(count / limits.flops_per_second, size / limits.bytes_per_second)
        for count, size in zip(flops, moved, strict=True)
    ]
    phases = {}
    if not settings.cuda_graph:
        for at, name in enumerate(PHASES):
            phases[name] = _phase([each[at] for each in times], flops[at], moved[at], floors[at])
    phases[WHOLE] = _phase([sum(each) for each in times], sum(flops), sum(moved), sum(floors))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    tokens = step.tokens
    weights = shape.transformer_bytes(dtype, video=tokens.joint, one_way=tokens.one_way, policy=step.policy)
    counted = step_bytes(shape, step, device.type)
    return Measurement(
        mode=mode.name,
        base=shape.name,
        base_fingerprint=shape.fingerprint,
        layers=layers,
        rank=step.rank,
        batch_size=step.batch_size,
        options=settings.given(),
        steps=steps,
        audio_tokens=tokens.audio,
        reference_tokens=tokens.reference,
        video_tokens=tokens.video,
        text_tokens=shape.context_tokens,
        frozen_parameters=sum(parameter.numel() for parameter in model.parameters()) - trained,
        trained_parameters=trained,
        device=device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        versions={"sonolora": __version__, "torch": torch.__version__, "python": platform.python_version()},
        limits=limits,
        phases=phases,
        operations=operations,
        peak_bytes=peak,
        computed_bytes=weights + counted.peak + (counted.example * step.batch_size if settings.cuda_graph else 0),
        plain=plain_loop,
    )


def _count(trainer: Trainer, model: Transformer) -> tuple[list[int], list[int]]:
    """FLOPs and least bytes of each phase, from one step."""
    saved: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        saved.add(tensor.untyped_storage().data_ptr())
        return tensor.detach()

    with _eager(), flop_counter() as counter, saved_tensors_hooks(pack, lambda tensor: tensor):
        counts = read_phases(trainer, model, counter.get_total_flops, 1)
    return [after - before for before, after in pairwise(counts)], least_bytes(model, saved)


def least_bytes(model: Transformer, saved: set[int]) -> list[int]:
    """The fewest bytes that each phase of a step must read and write, however it is implemented.

    Forward: every weight is read. Backward: those that autograd saved are read again (`saved`: the addresses of their
    storages; the weights of the text's keys and values, for instance, are not needed again), and every gradient is
    written. Update: AdamW reads gradient, value and two moments, and writes value and moments. Activations do not
    count: they need not leave the cache.
    """
    weights = [*model.parameters(), *model.buffers()]
    values = sum(parameter.nbytes for parameter in weights if parameter.requires_grad)
    again = sum(weight.nbytes for weight in weights if weight.untyped_storage().data_ptr() in saved)
    return [sum(weight.nbytes for weight in weights), again + values, (4 + 3) * values]


def _in_turn(functions: list[Callable[[], object]], device: torch.device, rounds: int) -> list[list[float]]:
    """Milliseconds of each function, round by round; the host waits for the device only after the last."""
    mark, elapsed = clock(device)
    moments = [mark()]
    for _ in range(rounds):
        for function in functions:
            function()
            moments.append(mark())
    times = [elapsed(*pair) for pair in pairwise(moments)]
    return [times[at : at + len(functions)] for at in range(0, len(times), len(functions))]


def _plain(
    trainer: Trainer, model: Transformer, shape: BaseShape, step: Step, device: torch.device, rounds: int
) -> Plain:
    """The same model, adapters and loss in the loop of a tutorial: torch's AdamW and noise."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    layers = shape.transformer_config.layers
    example = collate([make_example(shape, step.tokens, device, compute_dtype(device), layers)] * step.batch_size)

    def loop() -> None:
        noise = torch.randn_like(example.latents_BTC)
        loss = flow_losses(model, example, noise, torch.rand_like(noise[:, 0, 0])).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    loop()
    times = _in_turn([trainer.step, loop], device, rounds)
    return Plain(median(theirs for _, theirs in times), median(theirs / ours for ours, theirs in times))


def _eager() -> AbstractContextManager[None]:
    """Within it nothing runs compiled: a block whose first call is observed by a dispatch mode would never be."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _operations(trainer: Trainer, device: torch.device) -> int:
    """The number of operations of one step."""
    if device.type == "cpu":
        with _eager(), _Operations() as counted:  # type: ignore[no-untyped-call]
            trainer.step()
        return int(counted.count)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        trainer.step()
        torch.cuda.synchronize(device)
    return sum(event.device_type.name == "CUDA" for event in profiled.events() or ())


def _phase(times: list[float], flops: int, moved: int, floor_ms: float) -> Phase:
    return Phase(median(times), min(times), max(times), flops, moved, floor_ms, floor_ms / median(times))
