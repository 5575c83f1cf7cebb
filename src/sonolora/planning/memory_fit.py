"""Whether a run fits the device's memory, and what to change if it does not.

In: a mode, a request, a base, a device. Out: nothing, a warning where it may still run, or an error that names the
nearest settings that fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.memory.weight_forms import WEIGHTS
from sonolora.ltx.weights.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.available_memory import available_bytes
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.needs import Needs, count_needs
from sonolora.planning.run_settings import FROZEN_CACHED, RunSettings

_AMPLE = 16  # times the weights: a run needs far less besides them


def check_fit(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    base: Base,
    device: torch.device,
    available: int | None = None,
    members: int = 1,
) -> str | None:
    """Compare a run with the memory that is available, by default the device's; returns a warning, if there is one.

    However many clips there are: those that find no room on the device stay on the host. Raises `InputError` for what
    does not fit a GPU and would with another value of a field, naming the nearest, and otherwise `SonoloraError`.
    """
    available = available_bytes(device) if available is None else available
    weights = 2 * sum(math.prod(info.shape) for info in base.checkpoint.tensors.values())  # as bfloat16
    if available > _AMPLE * weights and device.type == "cpu":
        return None
    shape = BaseShape.of(base)
    needs = count_needs(shape, mode, request, settings, device, members=members)
    if needs.peak > available:
        if device.type == "cuda":
            if members > 1:
                raise sweep_does_not_fit(device, members, needs, available)
            raise does_not_fit(shape, mode, request, settings, device, needs, available)
        return f"memory may not be enough: {_shortage(needs, available)}"
    if (free := available_bytes(torch.device("cpu"))) < needs.host_bytes:
        return (
            f"host memory may not be enough: --block-offload keeps {_gb(needs.host_bytes)} there, and {_gb(free)} are "
            "free"
        )
    return None


def sweep_does_not_fit(device: torch.device, members: int, needs: Needs, available: int) -> InputError:
    """The error for a sweep."""
    return InputError.of(
        "learning_rate",
        f"a sweep of {members} members does not fit {device}: {_shortage(needs, available)}. Give fewer learning rates "
        "or ranks, or --gradient-checkpointing",
    )


def does_not_fit(
    shape: BaseShape,
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    device: torch.device,
    needs: Needs,
    available: int,
) -> SonoloraError:
    """The error for a run that does not fit; it names what would: options of the run first, then fields."""
    search = _Search(shape, mode, request, settings, device, available, available_bytes(torch.device("cpu")))
    return search.error(f"it does not fit {device}: {_shortage(needs, available)}")


@dataclass(frozen=True)
class _Search:
    """What would fit, found by counting. `host`: free bytes of host memory."""

    shape: BaseShape
    mode: Mode
    request: TrainRequest
    settings: RunSettings
    device: torch.device
    available: int
    host: int

    def error(self, problem: str) -> SonoloraError:
        """The problem, and what to do: one change, else two options, else several changes together."""
        recomputed, quantised, offloaded, both = _smaller_settings(self.settings)
        every = [self.settings, *recomputed, *quantised, *offloaded, *both]
        smallest, changes = self.smallest_request()
        if all(self.count(smallest, settings).peak > self.available for settings in (every[-1], *self.one_way)):
            return self.nothing_fits(problem, every[-1])
        fewer = [replace(self.settings, batch_size=size) for size in range(self.settings.batch_size - 1, 0, -1)]
        kinds = (recomputed, fewer, quantised, offloaded, self.one_way)
        found = [settings for kind in kinds if (settings := self.first(kind, self.request))]
        options = [self.options(self.with_fewest_blocks(settings)) for settings in found]
        fields = self.fields()
        if fields or options:
            words = f"{problem}. It would fit with {', or '.join([*options, *map(_assignment, fields.items())])}"
            return InputError.of(next(iter(fields)), words) if fields else SonoloraError(words)
        if settings := self.first(both, self.request):
            return SonoloraError(f"{problem}. It would fit with {self.options(settings)}")
        settings = self.first(every, smallest)
        if settings is None or not changes:
            return self.nothing_fits(problem, every[-1])
        together = dict[str, Any]()
        for name, value in changes.items():
            together[name] = value
            if self.fits(self.request.model_copy(update=together), settings):
                break
        words = ", ".join([*filter(None, [self.options(settings)]), *map(_assignment, together.items())])
        return InputError.of(next(iter(together)), f"{problem}. It would fit with {words} together")

    def nothing_fits(self, problem: str, smallest_settings: RunSettings) -> SonoloraError:
        smallest, changes = self.smallest_request()
        words = ", ".join([*filter(None, [self.options(smallest_settings)]), *map(_assignment, changes.items())])
        return SonoloraError(
            f"{problem}. No setting makes it fit: with {words or 'the smallest values'}, "
            f"{_shortage(self.count(smallest, smallest_settings), self.available)}. Use a GPU with more memory, or the "
            "CPU"
        )

    def smallest_request(self) -> tuple[TrainRequest, dict[str, Any]]:
        """The request with every field at its minimum, and the fields that this changes."""
        smallest, changes = self.request, dict[str, Any]()
        for name, values in _fields(self.mode, self.request):
            for value in reversed(values):
                changed = smallest.model_copy(update={name: value})
                if not changed.faults():
                    smallest, changes[name] = changed, value
                    break
        return smallest, changes

    def fields(self) -> dict[str, Any]:
        """Fields that alone make it fit, each at the value nearest to the request's."""
        nearest = {
            name: _nearest(self.request, name, values, lambda changed: self.fits(changed, self.settings))
            for name, values in _fields(self.mode, self.request)
        }
        return {name: value for name, value in nearest.items() if value is not None}

    @property
    def one_way(self) -> list[RunSettings]:
        """The settings with cached one-way videos, if the mode has videos and they are not cached already."""
        possible = self.mode.video and not self.settings.one_way_video
        return [replace(self.settings, v2a_video=FROZEN_CACHED)] if possible else []

    def count(self, request: TrainRequest, settings: RunSettings) -> Needs:
        return count_needs(self.shape, self.mode, request, settings, self.device)

    def fits(self, request: TrainRequest, settings: RunSettings) -> bool:
        if request.faults():
            return False
        needs = self.count(request, settings)
        return needs.peak <= self.available and needs.host_bytes <= self.host

    def first(self, candidates: Iterable[RunSettings], request: TrainRequest) -> RunSettings | None:
        return next((settings for settings in candidates if self.fits(request, settings)), None)

    def with_fewest_blocks(self, settings: RunSettings) -> RunSettings:
        """The settings, with gradient checkpointing of a quarter, half or three quarters where that fits, too."""
        if not settings.gradient_checkpointing or self.settings.gradient_checkpointing:
            return settings
        layers = self.shape.transformer_config.layers
        fewer = [
            replace(settings, gradient_checkpointing=False, checkpointed_blocks=-(-layers * quarters // 4))
            for quarters in (1, 2, 3)
        ]
        more = [one for one in fewer if self.settings.checkpointed_blocks < one.checkpointed_blocks < layers]
        return self.first(more, self.request) or settings

    def options(self, settings: RunSettings) -> str:
        """What to add to the command line."""
        current = self.settings
        words = [f"--weights {settings.weights}"] if settings.weights != current.weights else []
        if settings.batch_size != current.batch_size:
            words.append(f"--batch-size {settings.batch_size}")
        if settings.v2a_video != current.v2a_video:
            words.append(f"--v2a-video {settings.v2a_video}")
        if settings.block_offload != current.block_offload:
            words.append("--block-offload")
        elif settings.gradient_checkpointing != current.gradient_checkpointing:
            words.append("--gradient-checkpointing")
        elif settings.checkpointed_blocks != current.checkpointed_blocks:
            words.append(f"--checkpointed-blocks {settings.checkpointed_blocks}")
        return " ".join(words)


def _smaller_settings(settings: RunSettings) -> tuple[list[RunSettings], ...]:
    """Settings that need less memory, by the time that they cost: with gradient checkpointing, a forward pass more;
    with quantised weights, which are dequantised at each use; with block offload, where all weights cross the bus twice
    a step; with two of them. Without fp8, which needs as much as int8 and is less exact.
    """
    recomputing: list[dict[str, Any]] = [{"gradient_checkpointing": True}]
    offloading: list[dict[str, Any]] = [{"block_offload": True}]
    if settings.block_offload or settings.gradient_checkpointing:
        recomputing = []
    if settings.block_offload or settings.cuda_graph or settings.compile:  # neither works with offloaded blocks
        offloading = []
    coarser = [{"weights": weights} for weights in WEIGHTS[WEIGHTS.index(settings.weights) + 1 :] if weights != "fp8"]
    both = [one | other for kind in (recomputing, offloading) for one in coarser for other in kind]
    return tuple(
        [replace(settings, **changes) for changes in kind] for kind in (recomputing, coarser, offloading, both)
    )


def _assignment(field: tuple[str, Any]) -> str:
    return f"{field[0]} = {field[1]}"


def _fields(mode: Mode, request: TrainRequest) -> Iterator[tuple[str, Sequence[Any]]]:
    """Fields that memory depends on, each with its values below the request's, the nearest first."""
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
    """The first of the descending values that fits, or None."""

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


def _shortage(needs: Needs, available: int) -> str:
    stage = max(needs.stages, key=lambda stage: stage.peak)
    reserve = f" with a reserve of {_gb(needs.reserve)}" if needs.reserve else ""
    return f"{stage.name} needs {_gb(needs.peak)}{reserve} (computed, not measured), and {_gb(available)} are free"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
