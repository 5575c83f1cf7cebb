"""The command's options against the settings that they are made from."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest
import typer

from sonolora.cli.main import app
from sonolora.cli.mode_commands import idle_settings
from sonolora.core.setting_field import described
from sonolora.modes import MODES
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.run_settings import RunSettings, option
from sonolora.server.settings import ServerSettings


def parameters(*path):
    """The parameters of a command by name, as typer has parsed them."""
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    return {parameter.name: parameter for parameter in command.params}


@pytest.mark.parametrize("command", ["train", "estimate"])
@pytest.mark.parametrize("mode", MODES)
def test_every_run_setting_is_an_option_with_its_default_and_help(command, mode):
    given = parameters(command, mode)
    for name, default, known in described(RunSettings):
        if name in ("own_previews", *idle_settings(MODES[mode])):
            assert name not in given
            continue
        assert given[name].opts == [option(name)]
        assert given[name].default == default
        assert given[name].help == f"{known.help}."
        assert all(choice in given[name].metavar for choice in known.choices)


@pytest.mark.parametrize("mode", MODES)
def test_every_generate_setting_is_an_option(mode):
    given = parameters("generate", mode)
    for name, default, known in described(GenerateSettings):
        if name not in idle_settings(MODES[mode]):
            assert (given[name].default, given[name].help) == (default, f"{known.help}.")


def test_every_server_setting_is_an_option_that_overrides_the_file():
    given = parameters("serve")
    for name, default, known in described(ServerSettings):
        assert given[name].default is None, "the file's value stays without the option"
        assert given[name].help.startswith(f"{known.help}.")
        if default not in (None, False):
            assert f"[default: {', '.join(default) if isinstance(default, tuple) else default}]" in given[name].help
    assert given["devices"].opts == ["--device"]


@pytest.mark.parametrize("settings", [RunSettings, GenerateSettings, ServerSettings])
def test_every_field_describes_itself(settings):
    undescribed = {field.name for field in dataclasses.fields(settings)} - {name for name, *_ in described(settings)}
    assert undescribed <= {"folder", "prices", "lora", "more_loras", "distill_lora"}, (
        "give a new field its help text: setting(default, help)"
    )
    for name, _, known in described(settings):
        assert known.help and known.help[0].isupper() and not known.help.endswith("."), name
    assert get_type_hints(settings)
