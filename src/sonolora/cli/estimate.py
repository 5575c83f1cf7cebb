"""The command `sonolora estimate MODE DATA`: what a run would take, with the options of `sonolora train`.

Thin: it reads options, calls `estimate`, and prints. A run that the device cannot hold ends with the error that
`train` would end with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonolora.cli.options import give_options, prompt_option, request_body
from sonolora.cli.settings import setting_options, settings_from
from sonolora.cli.terminal import TerminalProgress
from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import parse

if TYPE_CHECKING:
    from sonolora.planning.estimate import Estimate

_OWN: dict[str, tuple[Any, Any]] = {
    "data": (Annotated[str | None, typer.Argument(help="A zip, a folder or a URL.")], None),
    "out": (Annotated[Path, typer.Option("--out", help="Where the run would go; it is not made.")], Path("run")),
    "request": (Annotated[Path | None, typer.Option("--request", help="A JSON file with a whole request.")], None),
    "card": (
        Annotated[
            float | None,
            typer.Option(min=1, help="For a CUDA card of so many GB, which need not be here, in place of --device."),
        ],
        None,
    ),
    "watts": (Annotated[float | None, typer.Option(min=0, help="What this machine takes under load.")], None),
    "price_per_kwh": (Annotated[float | None, typer.Option(min=0, help="What electricity costs here.")], None),
    "record": (Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")], None),
}


def add_estimate_commands(app: typer.Typer) -> None:
    """Make `estimate MODE` a command of `sonolora`, for every mode."""
    estimate_app = typer.Typer(
        rich_markup_mode=None, help="Before training: memory, time, disk and price.", no_args_is_help=True
    )
    for mode in MODES.values():
        _add_mode(estimate_app, mode)
    app.add_typer(estimate_app, name="estimate")


def _add_mode(app: typer.Typer, mode: Mode) -> None:
    own = {"prompt": (Annotated[list[str] | None, prompt_option(mode.request)], None)} | _OWN | setting_options(mode)

    def command(**options: Any) -> None:
        own_options = {name: options.pop(name) for name in own}
        request = parse(
            mode.request,
            request_body(options, own_options["data"], own_options["prompt"] or [], own_options["request"]),
        )
        if (own_options["watts"] is None) != (own_options["price_per_kwh"] is None):
            raise InputError.of("watts", "--watts and --price-per-kwh go together: give both or neither")
        from sonolora.core.atomic_files import write_json
        from sonolora.planning.estimate import Power, estimate

        power = None if own_options["watts"] is None else Power(own_options["watts"], own_options["price_per_kwh"])
        with TerminalProgress() as progress:
            found = estimate(
                mode, request, settings_from(own_options), own_options["out"], progress, power, card=own_options["card"]
            )
        print("\n".join(_lines(found)))
        if own_options["record"] is not None:
            write_json(own_options["record"], found.as_json())
        if found.error is not None:
            raise found.error

    give_options(command, own, mode.request)
    app.command(mode.name, help=f"What training would take for {mode.summary}.")(command)


def _lines(found: Estimate) -> Iterator[str]:
    needs = found.needs
    out = f"; {found.skipped} files skipped, `sonolora check` says why" if found.skipped else ""
    tokens = [f"{needs.tokens.audio:,} audio"]
    tokens += [f"{needs.tokens.reference:,} reference"] if needs.tokens.reference else []
    tokens += [f"{needs.tokens.video:,} video"] if needs.tokens.video else []
    here = "; a card computes in bfloat16 and holds half, see --card" if found.device == "cpu" else ""
    yield f"{found.mode} on {found.base}, {found.steps:,} steps, {found.device} ({found.dtype}{here})"
    yield f"clips     {found.clips}, each of {' + '.join(tokens)} and {needs.text_tokens:,} text tokens{out}"
    more = "more than" if needs.peak > found.available else "of"
    yield f"memory    {_gb(needs.peak)}, {more} the {_gb(found.available)} that are free (computed, not measured):"
    for stage in needs.stages:
        resident = ", ".join(f"{what} {_gb(size)}" for what, size in stage.resident.items())
        yield f"  {stage.name:<20}{_gb(stage.peak):>10} peak: {resident}, and {_gb(stage.transient)} of workspace"
    yield f"  training examples: {_gb(needs.examples)} more on the device, or on the host if they do not fit"
    if needs.reserve:
        yield f"  {'reserve for CUDA':<20}{_gb(needs.reserve):>10}, an assumption"
    if needs.host_bytes:
        yield f"  offloaded blocks: {_gb(needs.host_bytes)} of host memory"
    yield from _times(found)
    disk = ", ".join(f"{what} {_gb(size)}" for what, size in found.disk.items())
    yield f"disk      {_gb(sum(found.disk.values()))} of the {_gb(found.disk_free)} that are free: {disk}"
    price = found.electricity_price
    here = "" if price is None else f"; on this machine {_about(found)}{price:,.4g} for electricity"
    yield f"price     ${found.hosted_price:,.2f} at fal{here}"


def _times(found: Estimate) -> Iterator[str]:
    if found.pace is None or found.training_seconds is None or found.preview_seconds is None:
        yield f"time      not known of a card that is not here; a step is {found.step_flops / 1e12:,.3g} TFLOP"
        return
    about, step = _about(found), _duration(found.pace.step)
    yield f"time      {about}{_duration(found.training_seconds)} of training, {step} a step"
    yield f"          {about}{_duration(found.preview_seconds)} of validation, without the vocoder"
    yield f"          ({found.pace.how})"
    yield "          not counted: fetching, encoding clips and texts, caching videos, loading"


def _about(found: Estimate) -> str:
    return "at least " if found.pace is not None and found.pace.bound else "about "


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:,.3g} ms"
    if seconds < 120:
        return f"{seconds:,.3g} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
