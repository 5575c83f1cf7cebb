"""The commands `sonolora bench step` and `sonolora bench preview`: how long either takes on this machine.

Thin: they read options, measure, print. Nothing of a base is needed but its shape; weights are random.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonolora.cli.options import give_options
from sonolora.cli.settings import FILM_OPTIONS, SETTING_OPTIONS, settings_from
from sonolora.modes import MODES, find_mode
from sonolora.modes.request import MAX_PREVIEW_FRAMES, Body, parse

if TYPE_CHECKING:
    from sonolora.planning.base_shape import BaseShape

_FEWEST_FRAMES = 9  # of a film
_NOT_HERE = "seed", "sigma_density", "checkpoint_every", "preview_every"
_WHAT: dict[str, tuple[Any, Any]] = {
    "mode": (Annotated[str, typer.Option(help="A mode, or all.")], "t2a"),
    "rank": (Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")], 32),
    "seconds": (
        Annotated[float | None, typer.Option(min=0.5, max=60, help="Length of a clip; none: as the mode has it.")],
        None,
    ),
    "resolution": (Annotated[str, typer.Option(help="Size of the film: low, medium or high.")], "medium"),
    "layers": (Annotated[int | None, typer.Option(min=1, help="Only so many layers, on a small machine.")], None),
    "record": (Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")], None),
    **{name: option for name, option in (SETTING_OPTIONS | FILM_OPTIONS).items() if name not in _NOT_HERE},
}
_STEP: dict[str, tuple[Any, Any]] = {
    "steps": (Annotated[int, typer.Option(min=1, help="Steps to measure.")], 20),
    "plain": (Annotated[bool, typer.Option("--plain", help="Beside it a plain loop, a step of each in turn.")], False),
    "out": (Annotated[Path | None, typer.Option(help="Write a page of results, say bench/results/CARD.md.")], None),
    **_WHAT,
}
_PREVIEW: dict[str, tuple[Any, Any]] = {
    "steps": (Annotated[int, typer.Option(min=1, help="Sampling steps.")], 30),
    **{name: option for name, option in _WHAT.items() if name != "batch_size"},
}


def add_bench_commands(app: typer.Typer) -> None:
    """Make `bench step` and `bench preview` commands of `sonolora`."""
    bench_app = typer.Typer(rich_markup_mode=None, help="Measure speed.", no_args_is_help=True)
    give_options(_step, _STEP, Body)
    give_options(_preview, _PREVIEW, Body)
    bench_app.command("step", help="How long a training step takes, and how near to what this machine can do.")(_step)
    bench_app.command("preview", help="How long a preview takes: sampling and decoding.")(_preview)
    app.add_typer(bench_app, name="bench")


def _step(**options: Any) -> None:
    from dataclasses import asdict

    from sonolora.core.atomic_files import atomic_write
    from sonolora.planning.bench.results_page import page, table
    from sonolora.planning.bench.step_time import measure_step

    records: list[Any] = []
    for case in _cases(options):
        print(f"measuring {case[1].name} ...", file=sys.stderr, flush=True)
        measured = measure_step(*case, rank=options["rank"], steps=options["steps"], plain=options["plain"])
        print(("\n" if records else "") + table(asdict(measured)), flush=True)
        records.append(asdict(measured))
    _write(options, records)
    if options["out"] is not None:
        with atomic_write(options["out"]) as temporary:
            temporary.write_text(page(" ".join(["sonolora", *sys.argv[1:]]), records), encoding="utf-8")


def _preview(**options: Any) -> None:
    from dataclasses import asdict

    from sonolora.planning.bench.preview_time import measure_preview

    records: list[Any] = []
    for case in _cases(options):
        print(f"measuring {case[1].name} ...", file=sys.stderr, flush=True)
        took = measure_preview(*case, rank=options["rank"], steps=options["steps"])
        print(
            f"{took.mode} on {took.base}, {took.device}: {took.audio_tokens} audio frames, {took.sampling_steps} steps "
            f"in {took.sampling_seconds:.2f} s, decoded in {took.decoding_seconds:.2f} s",
            flush=True,
        )
        records.append(asdict(took))
    _write(options, records)


def _cases(options: Mapping[str, Any]) -> Iterator[tuple[BaseShape, Any, Any, Any]]:
    """Shape, mode, request and settings of what is to be measured."""
    from sonolora.planning.base_shape import BaseShape
    from sonolora.planning.run_settings import JOINT

    shape = BaseShape.find(options["base"])
    shape = shape if options["layers"] is None else shape.with_layers(options["layers"])
    body: dict[str, Any] = {"training_data_url": "random", "resolution": options["resolution"]}
    if (seconds := options["seconds"]) is not None:
        body["audio_duration_seconds"], body["conditioning_seconds"] = seconds, seconds / 2
        body["number_of_frames"] = min(max(round(24 * seconds), _FEWEST_FRAMES), MAX_PREVIEW_FRAMES)
    for mode in MODES.values() if options["mode"] == "all" else [find_mode(options["mode"])]:
        given = options if mode.video or options["mode"] != "all" else {**options, "v2a_video": JOINT}
        yield shape, mode, parse(mode.request, body), settings_from(given)


def _write(options: Mapping[str, Any], records: list[Any]) -> None:
    from sonolora.core.atomic_files import write_json

    if options["record"] is not None:
        write_json(options["record"], records if options["mode"] == "all" else records[0])
