"""Command-line options made from a settings class, so that defaults and help texts cannot differ from it.

In: a dataclass whose fields are `setting`s. Out: annotations and defaults of a command's parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from sonolora.core.setting_field import Setting, described

# Annotation and default of each parameter by name; the default `...` stands for a required option.
Options = Mapping[str, tuple[Any, Any]]

RUN_SECTION = "Run settings"  # of a help page
_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


def setting_options(
    settings: type[Any], *, only: Collection[str] = (), without: Collection[str] = (), section: str | None = None
) -> Options:
    """An option for each setting, with its default."""
    hints = get_type_hints(settings)
    return {
        name: (_annotation(name, hints[name], known, section=section), default)
        for name, default, known in described(settings)
        if name not in without and (not only or name in only)
    }


def override_options(
    settings: type[Any], *, only: Collection[str] = (), show_defaults: bool = True, section: str | None = None
) -> Options:
    """An option for each setting that overrides a value from elsewhere; None where it is not given."""
    hints = get_type_hints(settings)
    return {
        name: (
            _annotation(
                name, hints[name], known, override=True, default=default if show_defaults else None, section=section
            ),
            None,
        )
        for name, default, known in described(settings)
        if not only or name in only
    }


def settings_in(settings: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of this class among a command's values."""
    return {name: values[name] for name, _, _ in described(settings) if name in values}


def _annotation(
    name: str, hint: Any, known: Setting, *, override: bool = False, default: Any = None, section: str | None = None
) -> Any:
    kind = next((one for one in get_args(hint) if one is not NoneType), hint) if NoneType in get_args(hint) else hint
    several = get_origin(kind) is tuple
    kind = get_args(kind)[0] if several else kind
    # `devices` in a file is `--device` on the command line, once for each.
    flag = "--" + (name.removesuffix("s") if several else name).replace("_", "-")
    help_text = f"{known.help}."
    if override and default not in (None, False):
        shown = ", ".join(default) if several else default
        help_text += f" [default: {shown}]"
    if kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}" if override else flag
        kind = bool | None if override else bool
        return Annotated[kind, typer.Option(flag, help=help_text, show_default=False, rich_help_panel=section)]
    kind = list[kind] if several else kind  # type: ignore[valid-type]
    optional = override or NoneType in get_args(hint)
    return Annotated[
        kind | None if optional else kind,
        typer.Option(flag, help=help_text, metavar=_metavar(kind, known), rich_help_panel=section),
    ]


def _metavar(kind: Any, known: Setting) -> str:
    if known.choices:
        return "|".join(known.choices)
    if known.minimum is not None and known.maximum is not None:
        return f"{known.minimum:g}..{known.maximum:g}"
    return known.metavar or _METAVARS.get(kind, "NAME")
