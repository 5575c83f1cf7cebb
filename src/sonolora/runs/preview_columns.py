"""The columns of a run's previews: as the base is sampled, and with `--distill-lora` as distilled models are.

In: a run's settings, request and base. Out: for each column how it is sampled and which LoRAs are used beside the one
that is trained: those of `--preview-lora` in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sonolora.core.errors import InputError
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_stack import LoRAUse
from sonolora.ltx.weights.base import Base
from sonolora.modes.request import TrainRequest
from sonolora.planning.lora_option import parse_lora
from sonolora.planning.needs import preview_sampling
from sonolora.planning.run_settings import RunSettings
from sonolora.sampling.guidance import OFF
from sonolora.sampling.noise_schedule import DISTILLED_STEPS
from sonolora.sampling.sampler import SamplingSettings


@dataclass(frozen=True)
class PreviewColumn:
    """How one preview of every evaluation is made."""

    sampling: SamplingSettings
    loras: Sequence[LoRAUse] = ()
    distilled: bool = False  # with the distill LoRA


def preview_columns(base: Base, request: TrainRequest, settings: RunSettings) -> list[PreviewColumn]:
    """The columns; the first is the one without the distill LoRA. Raises `CheckpointError` for a file that is none."""
    beside = [open_use(text, "preview_lora") for text in settings.preview_lora]
    columns = [PreviewColumn(preview_sampling(base, request), beside)]
    if settings.distill_lora is not None:
        if base.distilled:
            raise InputError.of("distill_lora", f"the base {base.name} is distilled already: leave it out")
        sampling = SamplingSettings(DISTILLED_STEPS, OFF, distilled=True)
        columns.append(PreviewColumn(sampling, [*beside, open_use(settings.distill_lora, "distill_lora")], True))
    return columns


def open_use(text: str, field: str) -> LoRAUse:
    """The LoRA that an option names. Raises `CheckpointError` for a file that is none."""
    file, strength = parse_lora(text, field)
    return LoRAUse(open_lora(Path(file).expanduser()), strength)
