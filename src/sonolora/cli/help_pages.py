"""Help pages and usage errors: options in sections, commands in a chosen order, advice for misplaced words.

In: the groups and commands that typer builds. Out: plain text, as wide as a terminal of 80 columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sonolora.core.errors import InputError

_SECTION = "rich_help_panel"  # typer's name for the section of an option


# What people type for an option, by what it is called here; the first that a command has is suggested.
_SYNONYMS = {
    "--duration": ("--seconds",),
    "--length": ("--seconds",),
    "--clip-length": ("--seconds",),
    "--iterations": ("--steps",),
    "--max-train-steps": ("--steps",),
    "--epochs": ("--steps",),
    "--lr": ("--learning-rate",),
    "--trigger": ("--trigger-phrase",),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--model": ("--base",),
    "--strength": ("--scale", "--strength"),
    "--weight": ("--scale",),
    "--guidance": ("--cfg-scale",),
    "--cfg": ("--cfg-scale",),
    "--stg": ("--stg-scale",),
    "--negative": ("--negative-prompt", "--validation-negative-prompt"),
    "--dim": ("--rank",),
    "--network-dim": ("--rank",),
    "--source": ("--input",),
    "--file": ("--input",),
    "--mask": ("--time-ranges",),
    "--gap": ("--time-ranges", "--preview-gap"),
    "--sample-prompt": ("--prompt",),
    "--count": ("--takes",),
    "--batch": ("--batch-size", "--takes"),
    "--resume-from": ("--resume",),
}


class Command(TyperCommand):
    """A command whose help page lists its options by section, and that suggests the option that was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if hasattr(error, "possibilities"):
                error.possibilities = _meant(self, getattr(error, "option_name", ""))
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands that says where an option belongs and what an unknown command may have meant."""

    noun = "command"

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except typer.TyperException as error:
            option = getattr(error, "option_name", None)
            if option is None or not any(option in names for names in _options_below(self)):
                raise
            raise self.late_option(ctx, option, args) from None

    def late_option(self, ctx: Any, option: str, args: list[str]) -> InputError:
        """The error for an option that stands before the command or mode that takes it."""
        named = next((word for word in args if word in self.commands), self.noun.upper())
        return InputError.of(
            option.lstrip("-"), f"must come after the {self.noun}: {ctx.command_path} {named} {option} ..."
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is not None or ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = get_close_matches(name, self.commands, 1)
        meant = f"; did you mean {near[0]}?" if near else f": specify one of {', '.join(self.list_commands(ctx))}"
        if os.path.exists(name):  # noqa: PTH110 - Path raises for names that no file can have
            meant = f": specify one of {', '.join(self.list_commands(ctx))} before the data"
        raise InputError.of(self.noun, f"{name!r} is not a {self.noun}{meant}")


class ModeGroup(Group):
    """The modes of a command."""

    noun = "mode"


def ordered(*names: str) -> type[Group]:
    """A group that lists its commands in this order, and then any others."""

    class Ordered(Group):
        def list_commands(self, ctx: Any) -> list[str]:
            every = super().list_commands(ctx)
            return sorted(every, key=lambda name: names.index(name) if name in names else len(names))

    return Ordered


def make_group(help: str, cls: type[Group] = Group, **settings: Any) -> typer.Typer:
    """An app for a group of commands, with plain help pages."""
    return typer.Typer(cls=cls, help=help, rich_markup_mode=None, no_args_is_help=True, **settings)


def add_command(app: typer.Typer, name: str, command: Callable[..., None], **texts: Any) -> None:
    """Make a function a command of a group; its docstring is the help text unless `texts` has one."""
    app.command(name, cls=Command, **texts)(command)


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if (record := parameter.get_help_record(ctx)) is None:
            continue
        if parameter.param_type_name == "argument":
            sections.setdefault("Arguments", []).append((parameter.metavar or parameter.name.upper(), record[1]))
        else:
            sections.setdefault(getattr(parameter, _SECTION, None) or "Options", []).append(record)
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _meant(command: TyperCommand, option: str) -> list[str]:
    """The options that a word may stand for: by what it means, else by how it is spelt."""
    flags = [flag for parameter in command.params if not getattr(parameter, "hidden", False) for flag in parameter.opts]
    if known := [flag for flag in _SYNONYMS.get(option, ()) if flag in flags]:
        return known[:1]
    begin = [flag for flag in flags if flag.startswith(option)] if len(option) > len("--x") else []
    return begin or get_close_matches(option, flags, 2, 0.7)


def _options_below(group: TyperGroup) -> Iterator[list[str]]:
    """The names of every option of every command below a group."""
    for command in group.commands.values():
        yield from (list(parameter.opts) for parameter in command.params)
        if isinstance(command, TyperGroup):
            yield from _options_below(command)
