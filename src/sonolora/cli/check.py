"""`sonolora check MODE DATA`: what training would make of every file, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sonolora.cli.help_pages import ModeGroup, make_group
from sonolora.cli.mode_commands import add_training_commands, refuse_missing_files
from sonolora.cli.setting_options import Options, setting_options
from sonolora.cli.terminal import TerminalProgress
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.run_settings import RunSettings


def _options(mode: Mode) -> Options:  # noqa: ARG001 - one signature for all groups
    out = typer.Option("--out", metavar="DIR", help="Folder for the report.")
    verbose = typer.Option("--verbose", "-v", help="List every file, too.")
    return {
        "out": (Annotated[Path, out], Path("check")),
        "verbose": (Annotated[bool, verbose], False),
        **setting_options(RunSettings, only=("base",)),
    }


def _check(mode: Mode, request: TrainRequest, own: dict[str, Any]) -> None:
    refuse_missing_files(mode, request)
    from sonolora.ltx.weights.base import find_base
    from sonolora.runs.artifacts import REPORT_PAGE, RunArtifacts
    from sonolora.runs.check_data import check
    from sonolora.runs.report.report_table import show_summary

    with TerminalProgress() as progress:
        checked = check(mode, request, find_base(own["base"]), own["out"], progress)
    if checked.report["files"]:
        show_summary(checked.report, len(checked.clips), request, verbose=own["verbose"])
        more = "" if own["verbose"] else "; every file: --verbose"
        print(f"page: {RunArtifacts(own['out']).path(REPORT_PAGE)}{more}")
    if checked.error is not None:
        raise checked.error


check_app = make_group("Check a dataset before training.", ModeGroup)
add_training_commands(check_app, "Check a dataset: what training would make of every file.", _options, _check)
