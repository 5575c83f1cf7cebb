"""`run.json`: what a run was started with, and the identity that its training states must share.

In: a mode, a request, settings and a base; or the file. Out: a `RunRecord`. Light to import, so that a command can
refuse at once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from sonolora import __version__

IDENTITY_VERSION = "2"
# Settings that change the result; the others may differ when a run is continued.
_NUMERIC_SETTINGS = (
    "seed",
    "batch_size",
    "sigma_density",
    "v2a_video",
    "weights",
    "compile",
    "reference_positions",
    "preserve",
)
_VERSION_1_SETTINGS = _NUMERIC_SETTINGS[:5]


@dataclass(frozen=True)
class RunRecord:
    """The run as it was started. Nothing of it is interpreted here: a later version reads what an earlier one wrote."""

    sonolora_version: str
    mode: str
    request: dict[str, Any]
    settings: dict[str, Any]
    base_fingerprint: str
    sweep: dict[str, Any] | None = None  # the plan, where several LoRAs are trained at once

    @classmethod
    def new(
        cls,
        mode: str,
        request: dict[str, Any],
        settings: dict[str, Any],
        base_fingerprint: str,
        sweep: dict[str, Any] | None = None,
    ) -> RunRecord:
        """The record of a run that starts now."""
        request, settings, sweep = (json.loads(json.dumps(one)) for one in (request, settings, sweep))
        return cls(__version__, mode, request, settings, base_fingerprint, sweep)

    @classmethod
    def parse(cls, text: bytes) -> RunRecord:
        """Raises `ValueError` with the reason."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    def as_json(self) -> dict[str, Any]:
        """For `parse`."""
        values = asdict(self)
        if self.sweep is None:
            del values["sweep"]
        return values

    def identities(self, dataset_digest: str) -> list[dict[str, str]]:
        """What a training state of this run says of itself: in today's form, then in those of earlier versions.

        They follow from what was recorded, not from what a version makes of it: a field with a default that is added
        later does not end the runs that were started before.
        """
        common = {"base": self.base_fingerprint, "dataset": dataset_digest}
        return [
            {"identity_version": IDENTITY_VERSION, **common, "settings": _digest(self._canonical())},
            {**common, "settings": _digest(self._version_1())},
        ]

    def _canonical(self) -> str:
        settings = {name: self.settings[name] for name in _NUMERIC_SETTINGS if name in self.settings}
        sweep = {} if self.sweep is None else {"sweep": self.sweep}
        return json.dumps({"mode": self.mode, "request": self.request, "settings": settings, **sweep}, sort_keys=True)

    def _version_1(self) -> str:
        """As version 0.1 had it: the request with all fields, in their order, as pydantic writes it."""
        request: dict[str, Any] = {}
        for name, value in self.request.items():
            request[name] = value
            if name == "validation_aspect_ratio":
                request["stg_scale"] = self.request.get("stg_scale", 1.0)
        numeric = [self.settings.get(name) for name in _VERSION_1_SETTINGS]
        compiled = " compiled" if self.settings.get("compile") else ""
        return f"{self.mode} {to_json(request).decode()} {' '.join(map(str, numeric))}{compiled}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_ADAPTER = TypeAdapter(RunRecord)
