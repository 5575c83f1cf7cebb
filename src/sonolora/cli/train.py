"""`sonolora train MODE DATA --out DIR`, and `sonolora train --resume DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sonolora.cli.help_pages import ModeGroup, make_group
from sonolora.cli.mode_commands import add_training_commands, refuse_missing_files, with_options
from sonolora.cli.run_options import run_options, run_settings
from sonolora.cli.setting_options import Options, override_options
from sonolora.cli.stop_signal import StopSignal
from sonolora.cli.sweep import print_sweep
from sonolora.cli.terminal import TerminalProgress, called_as
from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import Body, TrainRequest
from sonolora.planning.run_settings import RunSettings, option

# Settings that a run may be resumed with: none changes what it computes, beyond the precision of the device.
_RESUME_SETTINGS = ("base", "device", "gradient_checkpointing", "checkpointed_blocks", "block_offload")
_RESUME: Options = {
    "context": (typer.Context, ...),
    "resume": (
        Annotated[Path | None, typer.Option(metavar="DIR", help="Continue the run in this folder.")],
        None,
    ),
    **override_options(RunSettings, only=_RESUME_SETTINGS, show_defaults=False, section="With --resume"),
}


def _resume(own: dict[str, Any], _: dict[str, Any]) -> None:
    context, folder = own.pop("context"), own.pop("resume")
    changed = {name: value for name, value in own.items() if value is not None}
    if (mode := context.invoked_subcommand) is not None:
        if folder is not None:
            raise _takes_no_mode(folder)
        if changed:
            name = next(iter(changed))
            raise InputError.of(name, f"must come after the mode: {context.command_path} {mode} {option(name)} ...")
        return
    if folder is None:
        raise InputError.of("mode", f"specify a mode ({', '.join(MODES)}), or --resume DIR")
    from sonolora.runs.artifacts import RunArtifacts

    if RunArtifacts(folder).is_finished():
        print("this run is already finished")
        print_results(folder)
        return
    from sonolora.runs.resume import resume

    with StopSignal().installed() as stop, TerminalProgress() as progress:
        resume(folder, progress, stop, **changed)
    print_results(folder)


def _takes_no_mode(folder: Path) -> InputError:
    return InputError.of("resume", f"takes no mode, the run has one: sonolora train --resume {folder}")


def _refuse_resume(folder: Path | None) -> None:
    if folder is not None:
        raise _takes_no_mode(folder)


def _options(mode: Mode) -> Options:
    return {
        "out": (Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")], ...),
        "resume": (Annotated[Path | None, typer.Option(hidden=True, is_eager=True, callback=_refuse_resume)], None),
        **run_options(mode),
    }


def _train(mode: Mode, request: TrainRequest, own: dict[str, Any]) -> None:
    # Heavy imports come after what can be refused at once.
    from sonolora.runs.run_folder import refuse_taken

    refuse_taken(own["out"])
    settings = run_settings(own)
    refuse_missing_files(mode, request)
    from sonolora.runs.start import start

    with StopSignal().installed() as stop, TerminalProgress() as progress:
        start(mode, request, settings, own["out"], progress, stop)
    print_outputs(own["out"])


def print_results(folder: Path) -> None:
    """Of a finished run, which may be a sweep."""
    from sonolora.runs.artifacts import RunArtifacts

    is_sweep = RunArtifacts(folder).record().sweep is not None
    (print_sweep if is_sweep else print_outputs)(folder)


def print_outputs(folder: Path) -> None:
    """Say what has come of the run in a folder, where its results are, and what to do with them."""
    from sonolora.runs.artifacts import LORA, PREVIEW, PREVIEWS, REPORT_PAGE, RunArtifacts
    from sonolora.runs.report.verdict import verdict

    artifacts = RunArtifacts(folder)
    print(f"LoRA:     {artifacts.path(LORA)}")
    if PREVIEW in artifacts:
        print(f"preview:  {artifacts.path(PREVIEW)}")
        print(f"previews: {artifacts.path(PREVIEWS)}")
    print(f"page:     {artifacts.path(REPORT_PAGE)}")
    result = verdict(artifacts)
    print(f"\n{result.text}")
    for what, command in result.commands:
        print(f"\n{what}:\n  {command.replace('sonolora', called_as(), 1)}")


class _TrainGroup(ModeGroup):
    def late_option(self, ctx: Any, option: str, args: list[str]) -> InputError:
        if "--resume" in args:
            return InputError.of(option.lstrip("-"), "cannot be given with --resume: the run keeps its own")
        return super().late_option(ctx, option, args)


train_app = make_group("Train a LoRA, or resume a run.", _TrainGroup, invoke_without_command=True)
train_app.callback()(with_options(_RESUME, Body, _resume))
add_training_commands(train_app, "Train a LoRA.", _options, _train)
