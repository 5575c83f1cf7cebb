"""`sonolora sweep MODE DATA --learning-rate A,B --rank R,S --out DIR`, and `sonolora sweep --resume DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sonolora.cli.estimate import print_estimate
from sonolora.cli.help_pages import ModeGroup, make_group
from sonolora.cli.mode_commands import (
    add_body_commands,
    idle_settings,
    refuse_missing_files,
    warn_of_unknown_fields,
    with_options,
)
from sonolora.cli.setting_options import RUN_SECTION, Options, setting_options, settings_in
from sonolora.cli.stop_signal import StopSignal
from sonolora.cli.terminal import TerminalProgress
from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import Body
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import WITHOUT, check_settings, read_sweep

_RESUME: Options = {
    "context": (typer.Context, ...),
    "resume": (
        Annotated[Path | None, typer.Option(metavar="DIR", help="Continue the sweep in this folder.")],
        None,
    ),
}
_OWN: Options = {
    "out": (Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")], ...),
    "keep_all": (
        Annotated[
            bool, typer.Option("--keep-all", help="Train all members to the end, instead of ending the weaker half.")
        ],
        False,
    ),
    "estimate": (
        Annotated[bool, typer.Option("--estimate", help="Print what the sweep would take, and start nothing.")],
        False,
    ),
}


def _options(mode: Mode) -> Options:
    without = (*WITHOUT, *idle_settings(mode))
    return {**_OWN, **setting_options(RunSettings, without=without, section=RUN_SECTION)}


def _sweep(mode: Mode, body: dict[str, Any], own: dict[str, Any]) -> None:
    warn_of_unknown_fields(mode, body)
    plan, request = read_sweep(mode, body, keep_all=own["keep_all"])
    if body.get("validation"):
        print("warning: a sweep renders no previews: use `sonolora generate` with its LoRA", file=sys.stderr)
    settings = RunSettings(**settings_in(RunSettings, own))
    check_settings(settings)
    refuse_missing_files(mode, request)
    folder: Path = own["out"]
    if own["estimate"]:
        from sonolora.planning.estimate import estimate

        with TerminalProgress() as progress:
            result = estimate(mode, request, settings, folder, progress, plan=plan)
        members, steps = len(plan.members), request.number_of_steps
        print(
            f"a sweep of {members} LoRAs, {plan.member_steps(steps):,} steps in place of {members * steps:,}; "
            "memory while all of them train"
        )
        print_estimate(result)
        return
    from sonolora.runs.run_folder import refuse_taken

    refuse_taken(folder)
    from sonolora.runs.start import start

    with StopSignal().installed() as stop, TerminalProgress() as progress:
        start(mode, request, settings, folder, progress, stop, plan=plan)
    print_sweep(folder)


def _resume(own: dict[str, Any], _: dict[str, Any]) -> None:
    context, folder = own["context"], own["resume"]
    if context.invoked_subcommand is not None:
        if folder is not None:
            raise InputError.of("resume", f"takes no mode, the sweep has one: sonolora sweep --resume {folder}")
        return
    if folder is None:
        raise InputError.of("mode", f"specify a mode ({', '.join(MODES)}), or --resume DIR")
    from sonolora.runs.artifacts import RECORD, RunArtifacts

    artifacts = RunArtifacts(folder)
    if RECORD not in artifacts:
        raise InputError.of(
            "resume",
            f"{folder} holds no sweep that can be continued (there is no {RECORD}): it stopped before training began, "
            "or is another folder. Start one with: sonolora sweep MODE DATA --learning-rate A,B --out DIR",
        )
    if artifacts.record().sweep is None:
        raise InputError.of("resume", f"{folder} holds a run of one LoRA: sonolora train --resume {folder}")
    if not artifacts.is_finished():
        from sonolora.runs.resume import resume

        with StopSignal().installed() as stop, TerminalProgress() as progress:
            resume(folder, progress, stop)
    print_sweep(folder)


def print_sweep(folder: Path) -> None:
    """The table of a finished sweep, where its results are, and what to do with them."""
    from sonolora.runs.artifacts import LORA, SWEEP, SWEEP_PICTURE, RunArtifacts
    from sonolora.runs.report.verdict import verdict
    from sonolora.runs.sweep.standings import table

    artifacts = RunArtifacts(folder)
    standings = json.loads(artifacts.path(SWEEP).read_bytes())
    best = standings["members"][standings["best"]]
    print(f"\n{table(standings)}\n")
    print(f"best LoRA: {artifacts.path(LORA)} (rank {best['rank']}, learning rate {best['learning_rate']:g})")
    print(f"curves:    {artifacts.path(SWEEP_PICTURE)}")
    for what, command in verdict(artifacts).commands:
        print(f"\n{what}:\n  {command}")


sweep_app = make_group("Train several LoRAs at once and keep the best.", ModeGroup, invoke_without_command=True)
sweep_app.callback()(with_options(_RESUME, Body, _resume))
add_body_commands(
    sweep_app,
    "Train a LoRA for each pair of a learning rate and a rank, at once on one base; the weaker half ends early. "
    "--learning-rate and --rank take several values, such as 1e-4,2e-4,5e-4.",
    _options,
    _sweep,
)
