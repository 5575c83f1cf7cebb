"""What a LoRA says of itself: the metadata in its file, and `config.json` beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sonolora import __version__
from sonolora.core.atomic_files import write_json
from sonolora.data.fetch import without_secrets
from sonolora.data.prepared import Prepared
from sonolora.ltx.weights.stored_tensor import PUBLISHED_PRECISION, stored_precision
from sonolora.modes.request import AudioRequest, TrainRequest

if TYPE_CHECKING:
    from sonolora.runs.train import Run

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
        **({"base_precision": precision} if precision != PUBLISHED_PRECISION else {}),
        **({"v2a_video": settings.v2a_video} if run.mode.video else {}),
        **_mode_metadata(request),
        "dataset_digest": prepared.digest,
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
    return {**values, "reference_positions": "overlap", "kept_encoding": "regenerated spans silenced"}


def write_config(run: Run, prepared: Prepared) -> None:
    """`config.json`: training type and trigger phrase, the whole request, and what the LoRA's metadata says.

    It goes with the LoRA to whoever gets it, so addresses stand in it without what may be secret.
    """
    write_json(
        run.folder / "config.json",
        {
            "training_type": run.mode.name,
            "trigger_phrase": run.request.trigger_phrase,
            "request": _to_be_shared(run.request.saved()),
            "lora": lora_metadata(run, prepared),
        },
    )


def _to_be_shared(value: Any, name: str = "") -> Any:
    """A request as JSON, or a part of it of that name, without the secrets of its addresses."""
    match value:
        case dict():
            return {key: _to_be_shared(one, key) for key, one in value.items()}
        case list() | tuple():
            return [_to_be_shared(one) for one in value]
        case str() if name.endswith("_url"):
            return without_secrets(value)
    return value
