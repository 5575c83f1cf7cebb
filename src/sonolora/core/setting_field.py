"""Fields of settings that describe themselves: default, help text, and the values that they take.

The command's options, the keys of `server.toml` and the tables of the docs are made from these fields, so that every
default and every help text is written once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any

from sonolora.core.errors import InputError


@dataclass(frozen=True)
class Setting:
    """What is known of a field beside its name and type."""

    help: str  # one sentence without its period, which help pages add after the choices
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str | None = None  # stands for the value on help pages


def setting(default: Any, help: str, **known: Any) -> Any:
    """A dataclass field with this default; `known` are more fields of `Setting`."""
    return field(default=default, metadata={"setting": Setting(help, **known)})


def same_setting(settings: type[Any], name: str) -> Any:
    """The field of another settings class, with its default, help text and choices."""
    found = next(item for item in dataclasses.fields(settings) if item.name == name)
    return field(default=found.default, metadata=found.metadata)


def described(settings: type[Any]) -> Iterator[tuple[str, Any, Setting]]:
    """Name, default and description of each described field, in their order."""
    for item in dataclasses.fields(settings):
        if "setting" in item.metadata:
            default = item.default if item.default_factory is MISSING else item.default_factory()
            yield item.name, default, item.metadata["setting"]


def check_values(settings: Any) -> None:
    """Raise `InputError` for the first value outside its field's choices or range."""
    for name, _, known in described(type(settings)):
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError.of(name, f"must be a finite number, not {value}")
        if known.choices and value not in known.choices:
            raise InputError.of(name, f"{value!r} is not one of {', '.join(known.choices)}")
        if known.minimum is not None and value < known.minimum:
            raise InputError.of(name, f"must be at least {known.minimum:g}, not {value}")
        if known.maximum is not None and value > known.maximum:
            raise InputError.of(name, f"must be at most {known.maximum:g}, not {value}")
