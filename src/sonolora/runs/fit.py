"""Whether a run fits the device's memory, and what to change when it does not.

In: a mode, a request, a base, a device. Out: nothing or a warning where it may run, and an error that names the nearest
settings that fit where it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sonolora.errors import InputError, SonoloraError
from sonolora.ltx.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.runs.needs import Needs, count_needs
from sonolora.runs.settings import RunSettings
from sonolora.runs.shapes import BaseShape

_PLENTY = 16  # times the weights: what a run can need beside them is far less


def available_bytes(device: torch.device) -> int:
    """Memory that a run may take: what is free, and on a card also what this process holds there for reuse."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fit(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    base: Base,
    device: torch.device,
    available: int | None = None,
) -> str | None:
    """Hold a run to the memory that is available, by default the device's; returns a warning, if there is one.

    Clips are not known yet: with one of them it is the least that the run needs. Raises `InputError` for what a card
    cannot hold, at the field of the nearest setting that fits, and `SonoloraError` when none does.
    """
    available = available_bytes(device) if available is None else available
    weights = sum(info.end - info.start for info in base.checkpoint.tensors.values())
    if available > _PLENTY * weights and device.type == "cpu":
        return None
    shape = BaseShape.of(base)
    needs = count_needs(shape, mode, request, settings, device)
    if needs.peak > available:
        if device.type == "cuda":
            raise does_not_fit(shape, mode, request, settings, device, needs, available)
        return f"memory may not be enough: {_gap(needs, available)}"
    if (host := available_bytes(torch.device("cpu"))) < needs.host_bytes:
        return (
            f"memory may not be enough: the text encoder passes through the host's memory with "
            f"{_gb(needs.host_bytes)}, and {_gb(host)} are free there"
        )
    return None


def does_not_fit(
    shape: BaseShape,
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    device: torch.device,
    needs: Needs,
    available: int,
    clips: int = 1,
) -> SonoloraError:
    """The error that says so, and names what would fit."""
    what = f"it does not fit {device}: {_gap(needs, available)}"

    def fits(changed: TrainRequest) -> bool:
        return not changed.faults() and count_needs(shape, mode, changed, settings, device, clips).peak <= available

    least, changes = request, dict[str, Any]()
    for name, values in _settings(mode, request):
        for value in reversed(values):
            changed = least.model_copy(update={name: value})
            if not changed.faults():
                least, changes[name] = changed, value
                break
    if not fits(least):
        gap = _gap(count_needs(shape, mode, least, settings, device, clips), available)
        return SonoloraError(
            f"{what}. No setting makes it fit: with {_said(changes) or 'the smallest of all'}, {gap}. Use a card "
            "with more memory, or the CPU"
        )
    alone = {
        name: value
        for name, values in _settings(mode, request)
        if (value := _nearest(request, name, values, fits)) is not None
    }
    if alone:
        return InputError.of(next(iter(alone)), f"{what}. It would fit with {_said(alone, ', or ')}")
    together = dict[str, Any]()
    for name, value in changes.items():
        together[name] = value
        if fits(request.model_copy(update=together)):
            break
    return InputError.of(next(iter(together)), f"{what}. It would fit with {_said(together)} together")


def _said(settings: Mapping[str, Any], between: str = ", ") -> str:
    return between.join(f"{name} = {value}" for name, value in settings.items())


def _settings(mode: Mode, request: TrainRequest) -> Iterator[tuple[str, Sequence[Any]]]:
    """Fields that memory depends on, each with its values below the request's, from the nearest down.

    A way to hold the base in less memory, when there is one, is one more line here.
    """
    yield from _below(request, "rank", (64, 32, 16, 8))
    if mode.video:
        yield from _below(request, "number_of_frames", range(113, 8, -8))
        yield from _sizes(request, "resolution")
        if request.validation:
            yield from _below(request, "validation_number_of_frames", range(113, 8, -8))
            yield from _sizes(request, "validation_resolution")
    else:
        yield from _below(request, "audio_duration_seconds", [seconds / 2 for seconds in range(119, 0, -1)])


def _below(request: TrainRequest, name: str, values: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    if lower := [value for value in values if value < getattr(request, name)]:
        yield name, lower


def _sizes(request: TrainRequest, name: str) -> Iterator[tuple[str, Sequence[Any]]]:
    sizes = ("high", "medium", "low")
    if lower := sizes[sizes.index(getattr(request, name)) + 1 :]:
        yield name, lower


def _nearest(request: TrainRequest, name: str, values: Sequence[Any], fits: Callable[[TrainRequest], bool]) -> Any:
    """The first of the falling values that fits, or None."""

    def with_value(at: int) -> TrainRequest:
        return request.model_copy(update={name: values[at]})

    usable = [at for at in range(len(values)) if not with_value(at).faults()]
    if not usable or not fits(with_value(usable[-1])):
        return None
    low, high = 0, len(usable) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(with_value(usable[middle])) else (middle + 1, high)
    return values[usable[low]]


def _gap(needs: Needs, available: int) -> str:
    stage = max(needs.stages, key=lambda stage: stage.peak)
    reserve = f" with a reserve of {_gb(needs.reserve)}" if needs.reserve else ""
    return f"{stage.name} needs {_gb(needs.peak)}{reserve} (computed, not measured), and {_gb(available)} are free"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
