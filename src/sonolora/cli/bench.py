"""`sonolora bench step` and `sonolora bench preview`: how long either takes on this machine.

Only the shape of a base is needed; the weights are random.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonolora.cli.help_pages import add_command, make_group
from sonolora.cli.mode_commands import with_options
from sonolora.cli.setting_options import Options, setting_options, settings_in
from sonolora.modes import MODES, find_mode
from sonolora.modes.request import MAX_PREVIEW_FRAMES, Body, parse
from sonolora.planning.run_settings import JOINT, RunSettings

if TYPE_CHECKING:
    from sonolora.planning.base_shape import BaseShape

_MIN_FRAMES = 9  # of a video
_UNUSED = ("seed", "sigma_density", "checkpoint_seconds", "checkpoint_every", "preview_every", "keep_checkpoints")
_WHAT: Options = {
    "mode": (Annotated[str, typer.Option(metavar="MODE", help="A mode, or all.")], "t2a"),
    "rank": (Annotated[int, typer.Option(min=1, metavar="N", help="Rank of the LoRA.")], 32),
    "seconds": (
        Annotated[
            float | None,
            typer.Option(min=0.5, max=60, metavar="X", help="Length of a clip; by default that of the mode."),
        ],
        None,
    ),
    "resolution": (Annotated[str, typer.Option(metavar="low|medium|high", help="Size of the video.")], "medium"),
    "layers": (
        Annotated[
            int | None, typer.Option(min=1, metavar="N", help="Use only the first N layers, on a small machine.")
        ],
        None,
    ),
    "record": (
        Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")],
        None,
    ),
}
_STEP: Options = {
    "steps": (Annotated[int, typer.Option(min=1, metavar="N", help="Steps to measure.")], 20),
    "plain": (
        Annotated[bool, typer.Option("--plain", help="Compare with a plain training loop, step by step in turn.")],
        False,
    ),
    "out": (
        Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write a page of results, such as bench/results/CARD.md."),
        ],
        None,
    ),
    **_WHAT,
    **setting_options(RunSettings, without=_UNUSED),
}
_PREVIEW: Options = {
    "steps": (Annotated[int, typer.Option(min=1, metavar="N", help="Sampling steps.")], 30),
    **_WHAT,
    **setting_options(RunSettings, without=(*_UNUSED, "batch_size")),
}


def _step(own: dict[str, Any], _: dict[str, Any]) -> None:
    from dataclasses import asdict

    from sonolora.core.atomic_files import atomic_write
    from sonolora.planning.bench.results_page import page, table
    from sonolora.planning.bench.step_time import measure_step

    records: list[Any] = []
    for case in _cases(own):
        print(f"measuring {case[1].name} ...", file=sys.stderr, flush=True)
        measured = measure_step(*case, rank=own["rank"], steps=own["steps"], plain=own["plain"])
        print(("\n" if records else "") + table(asdict(measured)), flush=True)
        records.append(asdict(measured))
    _write(own, records)
    if own["out"] is not None:
        with atomic_write(own["out"]) as temporary:
            temporary.write_text(page(" ".join(["sonolora", *sys.argv[1:]]), records), encoding="utf-8")


def _preview(own: dict[str, Any], _: dict[str, Any]) -> None:
    from dataclasses import asdict

    from sonolora.planning.bench.preview_time import measure_preview

    records: list[Any] = []
    for case in _cases(own):
        print(f"measuring {case[1].name} ...", file=sys.stderr, flush=True)
        measured = measure_preview(*case, rank=own["rank"], steps=own["steps"])
        print(
            f"{measured.mode} on {measured.base}, {measured.device}: {measured.audio_tokens} audio frames, "
            f"{measured.sampling_steps} steps in {measured.sampling_seconds:.2f} s, "
            f"decoded in {measured.decoding_seconds:.2f} s",
            flush=True,
        )
        records.append(asdict(measured))
    _write(own, records)


def _cases(own: Mapping[str, Any]) -> Iterator[tuple[BaseShape, Any, Any, Any]]:
    """Shape, mode, request and settings of each measurement."""
    from sonolora.planning.base_shape import BaseShape

    shape = BaseShape.find(own["base"])
    shape = shape if own["layers"] is None else shape.with_layers(own["layers"])
    body: dict[str, Any] = {"training_data_url": "random", "resolution": own["resolution"]}
    if (seconds := own["seconds"]) is not None:
        body["audio_duration_seconds"], body["conditioning_seconds"] = seconds, seconds / 2
        body["number_of_frames"] = min(max(round(24 * seconds), _MIN_FRAMES), MAX_PREVIEW_FRAMES)
    settings = settings_in(RunSettings, own)
    for mode in MODES.values() if own["mode"] == "all" else [find_mode(own["mode"])]:
        applied = settings if mode.video or own["mode"] != "all" else {**settings, "v2a_video": JOINT}
        yield shape, mode, parse(mode.request, body), RunSettings(**applied)


def _write(own: Mapping[str, Any], records: list[Any]) -> None:
    from sonolora.core.atomic_files import write_json

    if own["record"] is not None:
        write_json(own["record"], records if own["mode"] == "all" else records[0])


def _add(name: str, options: Options, run: Callable[[dict[str, Any], dict[str, Any]], None], help: str) -> None:
    add_command(bench_app, name, with_options(options, Body, run), help=help)


bench_app = make_group("Measure speed.")
_add("step", _STEP, _step, "Measure a training step against the limits of this machine.")
_add("preview", _PREVIEW, _preview, "Measure a preview: sampling and decoding.")
