"""How long a training step will take on this device: a few real steps of a few real layers, before anything is loaded.

In: a base's shape, what a step is made of, a device. Out: seconds, and in words where they come from. The layers have
random weights, which take as long as trained ones; a base that is small is measured whole. Where even that would take
too long, what is left is a bound: the FLOPs at the speed of a large matrix product, measured in the same process.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch

from sonolora.core.devices import compute_dtype
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench.machine_limits import machine_limits
from sonolora.planning.bench.synthetic import synthetic_trainer
from sonolora.planning.work_counts import Step, step_flops
from sonolora.training.step_phases import phase_times

_FEW = 2, 4  # layers
_SMALL_BYTES = 256 << 20
_WARM_UP, _STEPS = 2, 5
_SECONDS = 30.0  # that measuring may take where a step runs at a third of the limit
_EAGER_SHARE = 1 / 3


@dataclass(frozen=True)
class Pace:
    """Seconds of a step and of its forward pass. A bound is what they cannot be below."""

    step: float
    forward: float
    bound: bool
    how: str


def measure_pace(shape: BaseShape, step: Step, device: torch.device) -> Pace:
    """Measure on a device that is there."""
    dtype, layers = compute_dtype(device), shape.transformer_config.layers
    flops = step_flops(shape, step, device.type)
    speed = machine_limits(device, dtype).flops_per_second
    held = shape.transformer_bytes(dtype, video=step.tokens.joint, one_way=step.tokens.one_way)
    large = held > _SMALL_BYTES and layers > max(_FEW)
    few = _FEW if large else (layers,)
    expected = (_WARM_UP + _STEPS) * flops.whole * sum(few) / layers / (speed * _EAGER_SHARE)
    if expected > _SECONDS:
        how = f"not measured, would take too long: its FLOPs at {speed / 1e12:.3g} TFLOP/s, the best of this device"
        return Pace(flops.whole / speed, flops.forward / speed, True, how)
    first, *others = (_times(shape, count, step, device) for count in few)
    if not others:
        return Pace(*first, False, f"measured here, {_STEPS} steps with random weights")
    less, more = _FEW
    whole, forward = (a + (b - a) / (more - less) * (layers - less) for a, b in zip(first, others[0], strict=True))
    how = f"measured here with {less} and {more} of the {layers} layers, random weights, and extended to all"
    return Pace(whole, forward, False, how)


def _times(shape: BaseShape, layers: int, step: Step, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step and of its forward pass."""
    trainer, model = synthetic_trainer(shape, layers, step, device)
    measured = phase_times(trainer, model, device, _WARM_UP + _STEPS)[_WARM_UP:]
    return median(map(sum, measured)) / 1000, median(phases[0] for phases in measured) / 1000
