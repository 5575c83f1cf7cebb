"""How long a training step will take on this device, measured before anything is loaded.

In: a base's shape, a step, a device. Out: seconds, and how they were found: a few real steps of a few layers with
random weights, which take as long as trained ones. A small base is measured whole. Where even a few layers would take
too long, a lower bound remains: the FLOPs at the speed of a large matrix product, measured in the same process.
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

_MEASURED_LAYERS = 2, 4
_SMALL_BYTES = 256 << 20
_WARM_UP, _STEPS = 2, 5
_MAX_SECONDS = 30.0  # of measuring, for a step that runs at a third of the limit
_EAGER_SHARE = 1 / 3
_LEAST_SPEED = 2e10  # FLOPs per second of a step that any machine reaches


@dataclass(frozen=True)
class Pace:
    """Seconds of a step and of its forward pass. `bound`: they are lower bounds; `how`: in words, for people."""

    step: float
    forward: float
    bound: bool
    how: str


def measure_pace(shape: BaseShape, step: Step, device: torch.device) -> Pace:
    """Measure on a device of this machine."""
    dtype, layers = compute_dtype(device), shape.transformer_config.layers
    flops = step_flops(shape, step, device.type)
    weights = shape.transformer_bytes(dtype, video=step.tokens.joint, one_way=step.tokens.one_way)
    large = weights > _SMALL_BYTES and layers > max(_MEASURED_LAYERS)
    measured = _MEASURED_LAYERS if large else (layers,)
    work = (_WARM_UP + _STEPS) * flops.whole * sum(measured) / layers
    if work > _MAX_SECONDS * _LEAST_SPEED:  # measuring the peak takes longer than a few small steps
        speed = machine_limits(device, dtype).flops_per_second
        if work > _MAX_SECONDS * speed * _EAGER_SHARE:
            how = f"not measured, which would take too long: its FLOPs at the peak of {speed / 1e12:.3g} TFLOP/s"
            return Pace(flops.whole / speed, flops.forward / speed, True, how)
    first, *others = (_times(shape, count, step, device) for count in measured)
    if not others:
        return Pace(*first, False, f"measured on this device, {_STEPS} steps with random weights")
    less, more = _MEASURED_LAYERS
    whole, forward = (a + (b - a) / (more - less) * (layers - less) for a, b in zip(first, others[0], strict=True))
    how = f"measured on this device with {less} and {more} of the {layers} layers, random weights, and extrapolated"
    return Pace(whole, forward, False, how)


def _times(shape: BaseShape, layers: int, step: Step, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step and of its forward pass."""
    trainer, model = synthetic_trainer(shape, layers, step, device)
    measured = phase_times(trainer, model, device, _WARM_UP + _STEPS)[_WARM_UP:]
    return median(map(sum, measured)) / 1000, median(phases[0] for phases in measured) / 1000
