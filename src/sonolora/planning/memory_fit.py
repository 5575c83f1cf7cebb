"""Whether a run fits the device's memory, and what to change when it does not.

In: a mode, a request, a base, a device. Out: nothing or a warning where it may run, and an error that names the nearest
settings that fit where it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.memory import host_available_bytes
from sonolora.ltx.memory.weight_forms import WEIGHTS
from sonolora.ltx.weights.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.needs import Needs, count_needs
from sonolora.planning.run_settings import FROZEN_CACHED, RunSettings

_PLENTY = 16  # times the weights: what a run can need beside them is far less


def available_bytes(device: torch.device) -> int:
    """Memory that a run may take: what is free, and on a card also what this process holds there for reuse."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return host_available_bytes()


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
    cannot hold and would with another field, at the nearest that fits, and else `SonoloraError`.
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
    if (free := available_bytes(torch.device("cpu"))) < needs.host_bytes:
        return (
            f"memory may not be enough: --block-offload keeps {_gb(needs.host_bytes)} in the host's memory, and "
            f"{_gb(free)} are free there"
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
    """The error that says so, and names what would fit: options of the run first, then fields of the request."""
    search = _Search(shape, mode, request, settings, device, clips, available, available_bytes(torch.device("cpu")))
    return search.error(f"it does not fit {device}: {_gap(needs, available)}")


@dataclass(frozen=True)
class _Search:
    """What would fit, found by counting. `host`: bytes that are free in the host's memory."""

    shape: BaseShape
    mode: Mode
    request: TrainRequest
    settings: RunSettings
    device: torch.device
    clips: int
    available: int
    host: int

    def error(self, what: str) -> SonoloraError:
        """`what` is wrong, and what to do: one change; else two options; else several changes together."""
        recomputing, quantising, both = _ways(self.settings)
        every = [self.settings, *recomputing, *quantising, *both]
        least, changes = self.smallest_request()
        if all(self.count(least, way).peak > self.available for way in (every[-1], *self.one_way)):
            return self.nothing_fits(what, every[-1])
        fewer = [replace(self.settings, batch_size=size) for size in range(self.settings.batch_size - 1, 0, -1)]
        kinds = (recomputing, fewer, quantising, self.one_way)  # from the least harm on
        options = [self.options(way) for ways in kinds if (way := self.first(ways, self.request))]
        fields = self.fields()
        if fields or options:
            words = f"{what}. It would fit with {', or '.join([*options, *map(_said, fields.items())])}"
            return InputError.of(next(iter(fields)), words) if fields else SonoloraError(words)
        if way := self.first(both, self.request):
            return SonoloraError(f"{what}. It would fit with {self.options(way)}")
        way = self.first(every, least)
        if way is None or not changes:
            return self.nothing_fits(what, every[-1])
        together = dict[str, Any]()
        for name, value in changes.items():
            together[name] = value
            if self.fits(self.request.model_copy(update=together), way):
                break
        said = [*filter(None, [self.options(way)]), *map(_said, together.items())]
        return InputError.of(next(iter(together)), f"{what}. It would fit with {', '.join(said)} together")

    def nothing_fits(self, what: str, smallest: RunSettings) -> SonoloraError:
        least, changes = self.smallest_request()
        said = [*filter(None, [self.options(smallest)]), *map(_said, changes.items())]
        return SonoloraError(
            f"{what}. No setting makes it fit: with {', '.join(said) or 'the smallest of all'}, "
            f"{_gap(self.count(least, smallest), self.available)}. Use a card with more memory, or the CPU"
        )

    def smallest_request(self) -> tuple[TrainRequest, dict[str, Any]]:
        """The request with every field at the least that it can be, and those that are not so already."""
        least, changes = self.request, dict[str, Any]()
        for name, values in _fields(self.mode, self.request):
            for value in reversed(values):
                changed = least.model_copy(update={name: value})
                if not changed.faults():
                    least, changes[name] = changed, value
                    break
        return least, changes

    def fields(self) -> dict[str, Any]:
        """Fields that make it fit alone, each at the value nearest to the request's."""
        found = {
            name: _nearest(self.request, name, values, lambda changed: self.fits(changed, self.settings))
            for name, values in _fields(self.mode, self.request)
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def one_way(self) -> list[RunSettings]:
        """The way in which films are not there in training, if it is not taken already."""
        possible = self.mode.video and not self.settings.one_way_video
        return [replace(self.settings, v2a_video=FROZEN_CACHED)] if possible else []

    def count(self, request: TrainRequest, way: RunSettings) -> Needs:
        return count_needs(self.shape, self.mode, request, way, self.device, self.clips)

    def fits(self, request: TrainRequest, way: RunSettings) -> bool:
        if request.faults():
            return False
        counted = self.count(request, way)
        return counted.peak <= self.available and counted.host_bytes <= self.host

    def first(self, ways: Iterable[RunSettings], request: TrainRequest) -> RunSettings | None:
        return next((way for way in ways if self.fits(request, way)), None)

    def options(self, way: RunSettings) -> str:
        """What to add to the command line."""
        given = self.settings
        words = [f"--weights {way.weights}"] if way.weights != given.weights else []
        if way.batch_size != given.batch_size:
            words.append(f"--batch-size {way.batch_size}")
        if way.v2a_video != given.v2a_video:
            words.append(f"--v2a-video {way.v2a_video}")
        if way.block_offload != given.block_offload:
            words.append("--block-offload")
        elif way.gradient_checkpointing != given.gradient_checkpointing:
            words.append("--gradient-checkpointing")
        return " ".join(words)


def _ways(settings: RunSettings) -> tuple[list[RunSettings], list[RunSettings], list[RunSettings]]:
    """Ways to hold the base in less memory, each from the least harm on: computing blocks again, which changes no
    number; quantising weights; and both. fp8 is left out: it takes what int8 takes, and errs more.
    """
    hows: list[dict[str, Any]] = [{"gradient_checkpointing": True}, {"block_offload": True}]
    if settings.block_offload:
        hows = []
    elif settings.gradient_checkpointing:
        hows = hows[1:]
    if settings.cuda_graph or settings.compile:  # which cannot wait for blocks
        hows = [how for how in hows if "block_offload" not in how]
    coarser = [weights for weights in WEIGHTS[WEIGHTS.index(settings.weights) + 1 :] if weights != "fp8"]
    return (
        [replace(settings, **how) for how in hows],
        [replace(settings, weights=weights) for weights in coarser],
        [replace(settings, weights=weights, **how) for weights in coarser for how in hows],
    )


def _said(field: tuple[str, Any]) -> str:
    return f"{field[0]} = {field[1]}"


def _fields(mode: Mode, request: TrainRequest) -> Iterator[tuple[str, Sequence[Any]]]:
    """Fields that memory depends on, each with its values below the request's, from the nearest down."""
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
