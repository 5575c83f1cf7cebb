"""What an endpoint is: a request model, what a valid request makes the workers do, and how the result looks.

The queue, its OpenAPI and the results work on this alone; they do not know which endpoints there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from sonolora.modes.request import Body
from sonolora.server.jobs.records import Kind


@dataclass(frozen=True)
class Job:
    """What a valid request asks of the workers. `notes` are lines for its log: fields that have no effect here."""

    mode: str
    kind: Kind = Kind.TRAIN
    priority: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Endpoint:
    """One endpoint; `path` is below the app, and no two apps have the same one.

    `answer` makes the result of a sound's samples; trainings have a result of their own. The last fields are words of
    the description: what is queued, what comes out, and what else can be wrong with valid JSON.
    """

    app: str
    path: str
    request: type[Body]
    output: type[BaseModel]
    job: Callable[[Any], Job]
    summary: str
    category: str
    noun: str
    outputs: str
    invalid: str
    answer: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]] | None = None
    schema_prefix: str = ""

    @property
    def id(self) -> str:
        """As clients name it."""
        return f"{self.app}/{self.path}"

    @property
    def schema_name(self) -> str:
        """The beginning of the names of its schemas."""
        return self.schema_prefix + "".join(part.capitalize() for part in self.path.replace("/", "-").split("-"))
