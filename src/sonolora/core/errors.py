"""The errors that are meant to be read by the person who can mend their cause.

Everything raised on purpose derives from `SonoloraError`. `InputError` is the one for a bad request or a bad
dataset: it carries items in the published wire form (`loc`, `msg`, `type`, `ctx`), so that the command line and
the HTTP API show the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = (
    "the device has not enough memory for this request. Lower audio_duration_seconds, number_of_frames, resolution or "
    "rank"
)


class SonoloraError(Exception):
    """Something went wrong that the message explains; never a bug of the program."""


@dataclass(frozen=True)
class ErrorItem:
    """One fault: `loc` leads to it (`("body", "rank")`), `type` is a published error type, `input` what was found."""

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"
    ctx: Mapping[str, Any] = field(default_factory=dict)
    input: Any = None

    def as_wire(self) -> dict[str, Any]:
        """The item as it stands in the `detail` list of a 422 body."""
        wire: dict[str, Any] = {"loc": list(self.loc), "msg": self.msg, "type": self.type}
        if self.input is not None:
            wire["input"] = self.input
        if self.ctx:
            wire["ctx"] = dict(self.ctx)
        return wire

    def __str__(self) -> str:
        where = ".".join(str(part) for part in self.loc if part != "body")
        found = "" if self.input is None else f" (found {self.input!r})"
        return f"{where}: {self.msg}{found}" if where else f"{self.msg}{found}"


class InputError(SonoloraError):
    """A request or a dataset that cannot be used as it is (HTTP 422, exit code 2)."""

    def __init__(self, items: Sequence[ErrorItem]) -> None:
        self.items = tuple(items)
        super().__init__("\n".join(str(item) for item in self.items))

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
    """A model, LoRA or training-state file that does not hold what it should."""


class DamagedFileError(CheckpointError):
    """A file of a run whose content is not what was written."""
