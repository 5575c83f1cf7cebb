"""The options of a run, as `train` and `estimate` have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sonolora.cli.mode_commands import idle_settings
from sonolora.cli.setting_options import RUN_SECTION, Options, setting_options, settings_in
from sonolora.modes.mode import Mode
from sonolora.planning.run_settings import RunSettings

_OWN_PREVIEWS = 2


def run_options(mode: Mode) -> Options:
    """Every setting of a run, with `--no-previews` in place of the number of previews."""
    without = ("own_previews", *idle_settings(mode))
    flag = typer.Option(
        "--no-previews",
        help="Render none of the previews that are made of the run's own clips where the request has none.",
        show_default=False,
        rich_help_panel=RUN_SECTION,
    )
    return {
        **setting_options(RunSettings, without=without, section=RUN_SECTION),
        "no_previews": (Annotated[bool, flag], False),
    }


def run_settings(own: Mapping[str, Any]) -> RunSettings:
    """The settings among a command's values. Raises `InputError` for those that cannot be."""
    previews = 0 if own["no_previews"] else _OWN_PREVIEWS
    return RunSettings(**settings_in(RunSettings, own), own_previews=previews)
