"""Errors written for the person who can fix their cause.

Everything raised on purpose derives from `SonoloraError`. `InputError` is for a bad request or a bad dataset: it
carries items in the published wire format (`loc`, `msg`, `type`, `ctx`), so that the command line and the HTTP API
show the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = (
    "the device has not enough memory for this request. Lower audio_duration_seconds, number_of_frames, resolution or "
    "rank"
)
ABSENT: Any = object()  # for `ErrorItem.input`, of which None means JSON's null
_MAX_ITEMS = 50  # of a `detail` list
_MAX_ECHO = 2000  # characters of a faulty input that are sent back
_MAX_SHOWN = 200  # in a message


class SonoloraError(Exception):
    """A failure that the message explains; never a bug in the program."""


@dataclass(frozen=True)
class ErrorItem:
    """One fault: `loc` is its path (`("body", "rank")`), `type` a published error type, `input` the value found."""

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"
    ctx: Mapping[str, Any] = field(default_factory=dict)
    input: Any = ABSENT

    def as_wire(self) -> dict[str, Any]:
        """The item as an entry of `detail` in a 422 response."""
        wire: dict[str, Any] = {"loc": list(self.loc), "msg": self.msg, "type": self.type}
        if self.input is not ABSENT:
            wire["input"] = _echo(self.input)
        if self.ctx:
            wire["ctx"] = dict(self.ctx)
        return wire

    def __str__(self) -> str:
        where = ".".join(str(part) for part in self.loc if part != "body")
        found = "" if self.input is ABSENT else f" (found {_shortened(_as_json(self.input), _MAX_SHOWN)})"
        return f"{where}: {self.msg}{found}" if where else f"{self.msg}{found}"


class InputError(SonoloraError):
    """A request or a dataset that cannot be used (HTTP 422, exit code 2)."""

    def __init__(self, items: Sequence[ErrorItem]) -> None:
        self.items = tuple(items)
        super().__init__("\n".join(str(item) for item in self.items))

    def detail(self) -> list[dict[str, Any]]:
        """The `detail` list of a 422 body, which says how many items it leaves out."""
        detail = [item.as_wire() for item in self.items[:_MAX_ITEMS]]
        if (rest := len(self.items) - _MAX_ITEMS) > 0:
            detail.append({"loc": [], "msg": f"and {rest:,} more errors", "type": "value_error"})
        return detail

    @classmethod
    def of(cls, field: str, msg: str, type: str = "value_error", **ctx: Any) -> InputError:
        """The error of a single request field; `field` may be a path such as `validation.0.audio_url`."""
        path = [int(part) if part.isdecimal() else part for part in field.split(".")]
        return cls([ErrorItem(("body", *path), msg, type, ctx)])

    @classmethod
    def in_dataset(cls, msg: str, type: str = "value_error", **ctx: Any) -> InputError:
        """An error in the training data; `msg` names the file."""
        return cls.of("training_data_url", msg, type, **ctx)


class MediaError(SonoloraError):
    """A media file that cannot be read, with the reason in words."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path.name}: {reason}")


class CheckpointError(SonoloraError):
    """A model, LoRA or training-state file whose content is not what it should be."""


class DamagedFileError(CheckpointError):
    """A file of a run whose content is not what was written."""


def first_few(items: Sequence[str], count: int, separator: str = ", ") -> str:
    """The items of a message, at most `count` of them: `a, b, c, and 4 more`."""
    rest = [f"and {len(items) - count} more"] if len(items) > count else []
    return separator.join([*items[:count], *rest])


def _echo(value: Any) -> Any:
    """The value itself if it is short and JSON has it, else text that shows it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return _shortened(_as_json(value), _MAX_ECHO)
    return value if len(text) <= _MAX_ECHO else _shortened(text, _MAX_ECHO)


def _as_json(value: Any) -> str:
    """In the words of JSON where it has them."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        return repr(value)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
