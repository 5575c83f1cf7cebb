"""What forms are made from: modes, their fields, the settings of a run, and the bases on this machine.

In: the models that validate requests. Out: JSON that describes each field: type, default, range, choices, help.
"""

from __future__ import annotations

import types
import typing
from dataclasses import fields as dataclass_fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from starlette.requests import Request

from sonolora.core.setting_field import described
from sonolora.ltx.weights.registry import registered
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import Body
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.prices import PUBLISHED_PRICES
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import WITHOUT
from sonolora.server.endpoints.sweeps import SWEEPS
from sonolora.server.rest.operations import Operation
from sonolora.server.settings import EMBEDDED_BASE, ServerSettings

TITLES = {
    "t2a": ("Text to audio", "A sound, an instrument or a style, from words"),
    "a2a": ("Audio to audio", "A transformation, from pairs of before and after"),
    "v2a": ("Video to audio", "The sound for a silent film"),
    "audio-inpaint": ("Inpainting", "Marked spans are made anew, the rest stays"),
    "audio-extend-suffix": ("Extend backward", "What leads up to a given closing"),
    "audio-extend-prefix": ("Extend forward", "What follows a given opening"),
}
# Fields that are shown first; the others are folded away.
_FIRST = (
    "number_of_steps", "rank", "learning_rate", "audio_duration_seconds", "conditioning_seconds", "number_of_frames",
    "frame_rate", "resolution", "aspect_ratio",
)  # fmt: skip
_SET_ELSEWHERE = frozenset({"training_data_url", "trigger_phrase", "validation", "debug_dataset"})
# Settings of a run that the page offers; device and base are chosen beside them.
RUN_SETTINGS = (
    "seed", "batch_size", "sigma_density", "weights", "gradient_checkpointing", "block_offload", "v2a_video",
    "preview_every", "checkpoint_every",
)  # fmt: skip
_OF_SWEEPS = "learning_rate", "rank", "keep_all", "held_out"
_SWEEP_REQUESTS = dict(zip(MODES, (endpoint.request for endpoint in SWEEPS), strict=True))
GENERATE_SETTINGS = ("steps", "sampler", "cfg_scale", "stg_scale")


def operations(settings: ServerSettings) -> list[Operation]:
    async def modes(_: Request, __: None) -> Any:
        return {"modes": [describe_mode(mode) for mode in MODES.values()], **_common(settings)}

    return [
        Operation(
            "GET",
            "/api/modes",
            "The modes with the fields of their requests, the settings of a run, and the bases.",
            modes,
            returns="`modes`, `settings`, `generate_settings`, `bases`.",
        )
    ]


def _common(settings: ServerSettings) -> dict[str, Any]:
    return {
        "settings": _settings(RunSettings, RUN_SETTINGS, settings),
        "generate_settings": _settings(GenerateSettings, GENERATE_SETTINGS, settings),
        "bases": bases(settings),
        "base": settings.base,
    }


def bases(settings: ServerSettings) -> list[str]:
    """The names of the bases that a run here may use: the server's own first."""
    return list(dict.fromkeys([settings.base, EMBEDDED_BASE, *registered()]))


def describe_mode(mode: Mode) -> dict[str, Any]:
    title, subtitle = TITLES[mode.name]
    request = mode.request
    return {
        "name": mode.name,
        "title": title,
        "subtitle": subtitle,
        "summary": mode.summary,
        "video": mode.video,
        "reference": mode.reference,
        "mask": mode.name == "audio-inpaint",
        "extend": mode.name.removeprefix("audio-extend-") if mode.name.startswith("audio-extend-") else None,
        "price_per_step": PUBLISHED_PRICES[mode.name],
        "clip_seconds_field": "audio_duration_seconds" if "audio_duration_seconds" in request.model_fields else None,
        "fields": [
            {**_field(name, info), "first": name in _FIRST}
            for name, info in request.model_fields.items()
            if name not in request.without_effect | _SET_ELSEWHERE
        ],
        "sweep": [_field(name, _SWEEP_REQUESTS[mode.name].model_fields[name]) for name in _OF_SWEEPS],
        "validation": _validation(request),
        "generation": [_field(name, info) for name, info in mode.generation.model_fields.items()],
    }


def _validation(request: type[Body]) -> list[dict[str, Any]]:
    (entry,) = get_args(request.model_fields["validation"].annotation)
    assert issubclass(entry, BaseModel)
    return [_field(name, info) for name, info in entry.model_fields.items()]


def _field(name: str, info: FieldInfo) -> dict[str, Any]:
    kind, choices, optional = _kind(info.annotation)
    result: dict[str, Any] = {"name": name, "type": kind, "help": info.description or ""}
    if choices:
        result["choices"] = choices
    if optional:
        result["optional"] = True
    if not info.is_required():
        result["default"] = info.get_default(call_default_factory=True)
    else:
        result["required"] = True
    for rule in info.metadata:
        for attribute, word in (("ge", "minimum"), ("le", "maximum"), ("gt", "minimum"), ("lt", "maximum")):
            if (value := getattr(rule, attribute, None)) is not None:
                result[word] = value
    return result


def _kind(annotation: Any) -> tuple[str, list[Any], bool]:
    """The type in one word, its choices, and whether it may be null."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        kind, choices, _ = _kind(parts[0])
        return kind, choices, True
    if get_origin(annotation) is Literal:
        choices = list(get_args(annotation))
        return ("integer" if isinstance(choices[0], int) else "string"), choices, False
    if annotation in (bool, int, float, str):
        return {bool: "boolean", int: "integer", float: "number", str: "string"}[annotation], [], False
    return "list", [], False


def _settings(model: type[Any], names: tuple[str, ...], settings: ServerSettings) -> list[dict[str, Any]]:
    """Settings, with the server's own values as defaults."""
    hints = get_type_hints(model)
    known = {name: (default, setting) for name, default, setting in described(model)}
    own = {item.name for item in dataclass_fields(settings)}
    result = []
    for name in names:
        default, setting = known[name]
        kind, _, optional = _kind(hints[name])
        entry: dict[str, Any] = {
            "name": name,
            "type": kind,
            "help": setting.help + ".",
            "default": getattr(settings, name) if name in own else default,
        }
        if setting.choices:
            entry["choices"] = list(setting.choices)
        if optional:
            entry["optional"] = True
        if setting.minimum is not None:
            entry["minimum"] = setting.minimum
        if setting.maximum is not None:
            entry["maximum"] = setting.maximum
        if name == "v2a_video":
            entry["modes"] = ["v2a"]
        if name in WITHOUT:
            entry["without_sweep"] = True
        result.append(entry)
    return result
