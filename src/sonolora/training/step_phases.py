"""The phases of a training step, and a reading at the end of each: a clock, a count of FLOPs or of bytes.

In: a `Trainer`, its model, and a function to read. Out: its values before the first step and after every phase.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any, TypeVar

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sonolora.ltx.model.transformer import Transformer
from sonolora.training.trainer import Trainer

PHASES = ("forward", "backward", "update")  # the backward pass ends with the gradients clipped
_T = TypeVar("_T")
_ATEN = torch.ops.aten
# torch's counter knows neither products in place nor the CPU's attention, which computes the same as the GPU's.
_PRODUCTS: Mapping[Any, Any] = {
    _ATEN.addmm_: lambda _, a, b, **__: 2 * prod(a) * b[-1],
    _ATEN.baddbmm_: lambda _, a, b, **__: 2 * prod(a) * b[-1],
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)  # type: ignore[no-untyped-call]
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)  # type: ignore[no-untyped-call]
    ),
}


def flop_counter() -> FlopCounterMode:
    """Counts the FLOPs of matrix products, convolutions and attention."""
    return FlopCounterMode(display=False, custom_mapping=dict(_PRODUCTS))


def read_phases(trainer: Trainer, model: Transformer, read: Callable[[], _T], steps: int) -> list[_T]:
    """`read()` before the first of the steps and at the end of every phase of each."""
    readings = [read()]

    def phase_ends(*_: Any) -> None:
        readings.append(read())

    hooks = model.register_forward_hook(phase_ends), register_optimizer_step_pre_hook(phase_ends)
    try:
        for _ in range(steps):
            trainer.step()
            phase_ends()
    finally:
        for hook in hooks:
            hook.remove()
    assert len(readings) == 1 + len(PHASES) * steps, "a step is one forward pass, one backward pass and one update"
    return readings


def phase_times(trainer: Trainer, model: Transformer, device: torch.device, steps: int) -> list[list[float]]:
    """Milliseconds of each phase of each step; the host waits for the device only after the last."""
    mark, elapsed = clock(device)
    times = [elapsed(*pair) for pair in pairwise(read_phases(trainer, model, mark, steps))]
    return [times[at : at + len(PHASES)] for at in range(0, len(times), len(PHASES))]


def clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """A function that marks a moment in the device's time, and one that gives the milliseconds between two."""
    if device.type == "cpu":
        return time.perf_counter, lambda start, end: 1000 * (end - start)
    if device.type == "mps":  # untried

        def synchronized() -> float:
            torch.mps.synchronize()
            return time.perf_counter()

        return synchronized, lambda start, end: 1000 * (end - start)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    def elapsed(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end))

    return mark, elapsed
