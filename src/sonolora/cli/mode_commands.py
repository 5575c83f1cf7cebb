"""The one way to make a mode's command: `train`, `check`, `estimate` and `generate` each have one for every mode.

In: a group's options, the request model of a mode, and a function that does the work. Out: commands whose options are
the group's own and every field of the request.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sonolora.cli.help_pages import add_command
from sonolora.cli.request_options import idle_options, preview_entries, preview_options, request_body, request_options
from sonolora.cli.setting_options import Options
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import Body, TrainRequest, parse, unknown_fields

_REQUEST: Options = {
    "data": (Annotated[str | None, typer.Argument(metavar="DATA", help="A zip archive, a folder or a URL.")], None),
    "request": (
        Annotated[Path | None, typer.Option("--request", metavar="FILE", help="A JSON file with a whole request.")],
        None,
    ),
}


def idle_settings(mode: Mode) -> tuple[str, ...]:
    """Settings that a mode has no use for."""
    return (*(() if mode.video else ("v2a_video",)), *(() if mode.reference else ("reference_positions",)))


def with_options(
    options: Options, model: type[Body], run: Callable[[dict[str, Any], dict[str, Any]], None]
) -> Callable[..., None]:
    """A function that typer can make a command of: it takes these options and every field of the model.

    `run` gets the values of the options, and those of the fields that were given.
    """

    def command(**values: Any) -> None:
        own = {name: values.pop(name) for name in options}
        run(own, {name: value for name, value in values.items() if value is not None})

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is ... else default,
            annotation=annotation,
        )
        for name, (annotation, default) in {**options, **request_options(model)}.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def add_mode_command(
    app: typer.Typer, mode: Mode, what: str, options: Options, run: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    """A command that takes the mode's `generate` request; `what` it does stands before the mode's summary."""
    _add(app, mode, what, mode.generation, with_options(options, mode.generation, run))


def add_training_commands(
    app: typer.Typer,
    what: str,
    options: Callable[[Mode], Options],
    run: Callable[[Mode, TrainRequest, dict[str, Any]], None],
) -> None:
    """A command for each mode that takes the mode's training request, from a file, from options, or both.

    `run` gets the mode, the checked request and the values of the group's own options.
    """

    def read_and_run(mode: Mode, body: dict[str, Any], own: dict[str, Any]) -> None:
        run(mode, read_request(mode, body), own)

    add_body_commands(app, what, options, read_and_run)


def add_body_commands(
    app: typer.Typer,
    what: str,
    options: Callable[[Mode], Options],
    run: Callable[[Mode, dict[str, Any], dict[str, Any]], None],
) -> None:
    """The same, but `run` gets the body of the request, which is not checked."""
    for mode in MODES.values():
        _add_training_command(app, mode, what, options(mode), run)


def _add_training_command(
    app: typer.Typer,
    mode: Mode,
    what: str,
    options: Options,
    run: Callable[[Mode, dict[str, Any], dict[str, Any]], None],
) -> None:
    previews = preview_options(mode.request)

    def read_and_run(own: dict[str, Any], fields: dict[str, Any]) -> None:
        data, file = own.pop("data"), own.pop("request")
        prompts, inputs, gaps = (own.pop(name, None) or [] for name in ("prompt", "preview_input", "preview_gap"))
        entries = preview_entries(mode.request, prompts, inputs, gaps)
        run(mode, request_body(fields, data, entries, file), own)

    command = with_options({**_REQUEST, **previews, **options}, mode.request, read_and_run)
    _add(app, mode, what, mode.request, command)


def read_request(mode: Mode, body: Mapping[str, Any]) -> TrainRequest:
    """The checked request; unknown fields are warned of on standard error."""
    warn_of_unknown_fields(mode, body)
    return parse(mode.request, body)


def warn_of_unknown_fields(mode: Mode, body: Mapping[str, Any]) -> None:
    """On standard error."""
    for line in unknown_fields(mode.request, body):
        print(f"warning: {line}", file=sys.stderr)


def refuse_missing_files(mode: Mode, request: TrainRequest) -> None:
    """Raise `InputError` for paths where nothing is, before anything heavy is imported or a folder is made."""
    from sonolora.data.fetch import refuse_missing

    for spec in mode.previews(request):
        if spec.address:
            refuse_missing(spec.address, spec.field)
    refuse_missing(request.training_data_url)


def _add(app: typer.Typer, mode: Mode, what: str, model: type[Body], command: Callable[..., None]) -> None:
    summary = mode.summary[0].upper() + mode.summary[1:]
    add_command(
        app, mode.name, command, help=f"{what}\n\n{summary}.", short_help=f"{summary}.", epilog=idle_options(model)
    )
