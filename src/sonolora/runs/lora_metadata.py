"""The metadata in a LoRA's file, and `config.json` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonolora import __version__
from sonolora.data.prepared import Prepared
from sonolora.ltx.weights.stored_tensor import stored_precision
from sonolora.modes.request import AudioRequest, TrainRequest
from sonolora.runs.run import Run

WEIGHTS_LICENSE = "LTX-2.x Community License Agreement (Lightricks): a LoRA is a derivative of the base's weights"


def lora_metadata(run: Run, prepared: Prepared) -> dict[str, str]:
    """Text by key, for the safetensors header."""
    request, settings = run.request, run.settings
    precision = stored_precision(run.base.checkpoint.tensors)
    return {
        "format": "pt",
        "mode": run.mode.name,
        "base": run.base.name,
        "base_fingerprint": run.base.fingerprint,
        "rank": str(request.rank),
        "alpha": str(request.rank),
        "trigger_phrase": request.trigger_phrase,
        "steps": str(request.number_of_steps),
        "learning_rate": str(request.learning_rate),
        "seed": str(settings.seed),
        "batch_size": str(settings.batch_size),
        "sigma_density": run.sigma_density,
        "seconds": str(request.clip_seconds),
        "base_weights": settings.weights,
        "base_precision": precision,
        **({"v2a_video": settings.v2a_video} if run.mode.video else {}),
        **_mode_metadata(request),
        "reference_positions": settings.reference_positions,
        "dataset_digest": prepared.digest,
        **({"from_lora": Path(settings.from_lora).name} if settings.from_lora else {}),
        **({"preserve": str(settings.preserve)} if settings.preserve else {}),
        "held_out": json.dumps(prepared.held_out.names),
        "sonolora_version": __version__,
        "license": run.base.checkpoint.metadata.get("license", WEIGHTS_LICENSE),
    }


def _mode_metadata(request: TrainRequest) -> dict[str, str]:
    """What inference must do as training did."""
    of_interest = (
        ("audio_normalize", "conditioning_seconds")
        if isinstance(request, AudioRequest)
        else ("number_of_frames", "frame_rate", "resolution", "aspect_ratio")
    )
    values = {name: str(getattr(request, name)) for name in of_interest if hasattr(request, name)}
    return {**values, "kept_encoding": "regenerated spans silenced"}


def lora_config(run: Run, metadata: Mapping[str, str]) -> dict[str, Any]:
    """`config.json`: training type and trigger phrase, the request without its links, and the LoRA's metadata.

    It goes with the LoRA to whoever gets it: a link to the training data, even one without a password, is not theirs.
    """
    return {
        "training_type": run.mode.name,
        "trigger_phrase": run.request.trigger_phrase,
        "request": _without_links(run.request.saved()),
        "lora": metadata,
    }


def _without_links(value: Any) -> Any:
    """A request, or a part of one, without its fields that name files."""
    match value:
        case dict():
            return {name: _without_links(part) for name, part in value.items() if not name.endswith("_url")}
        case list() | tuple():
            return [_without_links(part) for part in value]
    return value
