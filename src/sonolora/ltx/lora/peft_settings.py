"""PEFT's settings for an adapter file, which give the scale of its updates.

In: the header of the file. Out: the settings, from the header (where diffusers writes them) or from the
adapter_config.json that PEFT writes beside the file; and by layer the scale.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.checkpoint import Checkpoint

PEFT_SETTINGS = "lora_adapter_metadata"  # diffusers' metadata key for them
PEFT_FILE = "adapter_config.json"


def peft_settings(
    checkpoint: Checkpoint, groups: Mapping[str, Mapping[str, str]]
) -> tuple[Mapping[str, Any], list[str]]:
    """PEFT's settings from the header or from the file that PEFT writes beside its own; and warnings."""
    metadata = checkpoint.metadata.get(PEFT_SETTINGS)
    if isinstance(metadata, dict):
        # diffusers puts the name of the network before each.
        return {key.removeprefix("transformer."): value for key, value in metadata.items()}, []
    if not any(group.startswith("base_model.model.") for group in groups):
        return {}, []
    file = checkpoint.path.parent / PEFT_FILE
    try:
        settings = json.loads(file.read_bytes())
        if isinstance(settings, dict):
            return settings, []
    except FileNotFoundError:
        if all("alpha" in parts for parts in groups.values()):
            return {}, []
        return {}, [f"its alpha is unknown, as {PEFT_FILE} is not beside it: it is used with a scale of 1"]
    except (OSError, ValueError):
        pass
    raise CheckpointError(f"{file}: cannot be read as JSON; PEFT keeps the alpha of {checkpoint.path.name} in it")


def peft_scale(path: Path, settings: Mapping[str, Any], layer: str, rank: int | None) -> float:
    """The scale that PEFT gives a layer (its name without prefix), whose alpha and rank may come from patterns."""
    if not settings:
        return 1.0
    try:
        if rank is None:
            rank = int(_pattern_value(settings.get("rank_pattern"), layer, settings.get("r", 1)))
        default = settings.get("lora_alpha", settings.get("alpha", rank))
        alpha = float(_pattern_value(settings.get("alpha_pattern"), layer, default))
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (re.error, AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: no valid alpha in PEFT's settings ({PEFT_SETTINGS} or {PEFT_FILE})") from error


def _pattern_value(patterns: Any, layer: str, default: Any) -> Any:
    matches = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", layer))
    return next(matches, default)
