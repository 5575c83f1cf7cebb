"""`sonolora estimate MODE DATA`: what a run would take, with the options of `sonolora train`.

A run that the device cannot hold ends with the error that `train` would end with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonolora.cli.help_pages import ModeGroup, make_group
from sonolora.cli.mode_commands import add_training_commands, refuse_missing_files
from sonolora.cli.run_options import run_options, run_settings
from sonolora.cli.setting_options import Options
from sonolora.cli.terminal import TerminalProgress
from sonolora.core.errors import InputError
from sonolora.core.paused_collection import paused_collection
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest

if TYPE_CHECKING:
    from sonolora.planning.estimate import Estimate

_OWN: Options = {
    "out": (
        Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the run would go; nothing is written there.")],
        Path("run"),
    ),
    "card": (
        Annotated[
            float | None,
            typer.Option(min=1, metavar="GB", help="Estimate for a CUDA card of this size, which need not be here."),
        ],
        None,
    ),
    "watts": (
        Annotated[
            float | None, typer.Option(min=0, metavar="W", help="Power draw of this machine under load, for the price.")
        ],
        None,
    ),
    "price_per_kwh": (
        Annotated[float | None, typer.Option(min=0, metavar="PRICE", help="Price of electricity, per kWh.")],
        None,
    ),
    "record": (
        Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")],
        None,
    ),
}


def _options(mode: Mode) -> Options:
    return {**_OWN, **run_options(mode)}


def _estimate(mode: Mode, request: TrainRequest, own: dict[str, Any]) -> None:
    watts, price, card = own["watts"], own["price_per_kwh"], own["card"]
    if (watts is None) != (price is None):
        raise InputError.of(
            "price_per_kwh" if price is None else "watts", "--watts and --price-per-kwh go together: give both"
        )
    if card is not None and watts is not None:
        raise InputError.of(
            "watts", "cannot be used with --card: the time on a card that is not here is unknown, and so is its price"
        )
    settings = run_settings(own)
    refuse_missing_files(mode, request)
    with paused_collection():  # most of the time is imports
        from sonolora.core.atomic_files import write_json
        from sonolora.planning.estimate import Power, estimate

        power = None if watts is None else Power(watts, price)
        with TerminalProgress() as progress:
            result = estimate(mode, request, settings, own["out"], progress, power, card=card)
    if own["record"] is not None:
        write_json(own["record"], result.as_json())
    print_estimate(result)


def print_estimate(result: Estimate) -> None:
    """Raises the error that the run would end with."""
    print("\n".join(_lines(result)))
    if result.error is not None:
        raise result.error


def _lines(result: Estimate) -> Iterator[str]:
    from sonolora.ltx.weights.stored_tensor import PUBLISHED_PRECISION

    needs = result.needs
    out = f"; {result.skipped} files skipped, `sonolora check` says why" if result.skipped else ""
    tokens = [f"{needs.tokens.audio:,} audio"]
    tokens += [f"{needs.tokens.reference:,} reference"] if needs.tokens.reference else []
    tokens += [f"{needs.tokens.video:,} video"] if needs.tokens.video else []
    yield _headline(result)
    here = "; a CUDA card uses bfloat16 and half the memory, see --card" if result.device == "cpu" else ""
    stored = "" if result.base_precision == PUBLISHED_PRECISION else f", stored as {result.base_precision}"
    yield f"{result.mode} on {result.base}{stored}, {result.steps:,} steps, {result.device} ({result.dtype}{here})"
    yield f"clips     {result.clips}, each of {' + '.join(tokens)} and {needs.text_tokens:,} text tokens{out}"
    of = ", more than the" if needs.peak > result.available else " of"
    yield f"memory    {_gb(needs.peak)}{of} {_gb(result.available)} free (computed, not measured):"
    for stage in needs.stages:
        resident = ", ".join(f"{what} {_gb(size)}" for what, size in stage.resident.items())
        yield f"  {stage.name:<20}{_gb(stage.peak):>10} peak: {resident}, workspace {_gb(stage.transient)}"
    yield f"  training examples: {_gb(needs.examples)} more, on the device if they fit, else on the host"
    if needs.reserve:
        yield f"  {'reserve for CUDA':<20}{_gb(needs.reserve):>10}, an assumption"
    if needs.host_bytes:
        yield f"  blocks offloaded to host memory: {_gb(needs.host_bytes)}"
    yield from _times(result)
    disk = ", ".join(f"{what} {_gb(size)}" for what, size in result.disk.items())
    yield f"disk      {_gb(sum(result.disk.values()))} of {_gb(result.disk_free)} free: {disk}"
    here = (
        ""
        if result.electricity_price is None
        else f"; here {_about(result)}{result.electricity_price:,.4g} for electricity"
    )
    yield f"price     ${result.hosted_price:,.2f} at fal{here}"


def _headline(result: Estimate) -> str:
    """Such as `about 3 min, 50 MB of memory, 40 MB of disk; $0.44 at the hosted price`."""
    parts = []
    if result.seconds is not None:
        parts.append(f"{_about(result)}{_duration(result.seconds)}")
    parts += [f"{_gb(result.needs.peak)} of memory", f"{_gb(sum(result.disk.values()))} of disk"]
    return f"{', '.join(parts)}; ${result.hosted_price:,.2f} at the hosted price"


def _times(result: Estimate) -> Iterator[str]:
    if (
        result.pace is None
        or result.training_seconds is None
        or result.preview_seconds is None
        or result.preparation_seconds is None
    ):
        yield f"time      unknown for a card that is not here; a step is {result.step_flops / 1e12:,.3g} TFLOP"
        return
    about, step = _about(result), _duration(result.pace.step)
    yield f"time      {about}{_duration(result.training_seconds)} of training, {step} per step"
    yield f"          {about}{_duration(result.preview_seconds)} of validation and previews"
    preparation = _duration(result.preparation_seconds)
    yield f"          {about}{preparation} of loading and encoding, at the speed of a step and 1 GB/s of disk"
    yield f"          ({result.pace.how}; downloads are not included)"


def _about(result: Estimate) -> str:
    return "at least " if result.pace is not None and result.pace.bound else "about "


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:,.3g} ms"
    if seconds < 120:
        return f"{seconds:,.3g} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


estimate_app = make_group("Estimate memory, time, disk space and price of a run.", ModeGroup)
add_training_commands(estimate_app, "Estimate what a run would take.", _options, _estimate)
