"""What a sound was generated with, and why: a line for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sonolora.modes.mode import Mode
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.sampling.sampler import SamplingSettings

_SENT = "as requested"
# Of the request; the others follow from the files that were given.
_FIELDS = ("conditioning_seconds", "frame_rate", "resolution", "aspect_ratio", "audio_normalize")


def values_used(
    mode: Mode,
    body: Mapping[str, Any],
    settings: GenerateSettings,
    sampling: SamplingSettings,
    *,
    lora: Mapping[str, Any],
    recommended: Mapping[str, Any],
    seconds: float,
    trained_seconds: float | None,
) -> str:
    """`lora`: the metadata of a LoRA for this mode; `recommended`: the guidance in the base's metadata."""
    guidance = sampling.guidance

    def of_base(name: str, requested: float | None) -> str:
        if requested is not None:
            return _SENT
        if sampling.distilled:
            return "off in a distilled model"
        return "as the base recommends" if name in recommended else "the published default"

    steps = _SENT if settings.steps is not None else "of the distilled model" if sampling.distilled else "as previews"
    parts = [
        f"{seconds:g} s ({_length(mode, body, trained_seconds)})",
        f"{sampling.steps} steps ({steps})",
        f"guidance scale {guidance.cfg:g} ({of_base('cfg', settings.cfg_scale)})",
        f"STG scale {guidance.stg:g} ({of_base('stg', settings.stg_scale)})",
        f"negative prompt ({_SENT if 'negative_prompt' in body else 'the default: faults of sound'})",
    ]
    fields = mode.generation.model_fields
    for name in _FIELDS:
        if name in fields:
            value, why = fields[name].default, "default"
            if name in lora:
                value, why = lora[name], "as the LoRA was trained"
            if name in body:
                value, why = body[name], _SENT
            parts.append(f"{name} {value} ({why})")
    return "values: " + ", ".join([*parts, f"seed {settings.seed}"])


def _length(mode: Mode, body: Mapping[str, Any], trained_seconds: float | None) -> str:
    if body.keys() & {"seconds", "extend_seconds"}:
        return _SENT
    if body.keys() & {"audio", "reference", "video"} and "extend_seconds" not in mode.generation.model_fields:
        return "as what is given"
    return "default" if trained_seconds is None else "as the LoRA's training clips"
