"""Describes a LoRA: its metadata, how much it changes each part of a base, and warnings.

In: a LoRA file and a base. Out: an `Inspection`, and its JSON form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonolora.ltx.lora.layer_kinds import AUDIO_KINDS, KINDS, TEXT, VIDEO_KINDS, VIDEO_TO_AUDIO, layer_kind
from sonolora.ltx.lora.lora_file import LoRAFile, open_lora
from sonolora.ltx.lora.lora_fit import linear_layers, summarise, unused_layers
from sonolora.ltx.lora.lora_strength import Strength, combine, strengths
from sonolora.ltx.lora.peft_settings import PEFT_SETTINGS
from sonolora.ltx.memory.weight_forms import FULL
from sonolora.ltx.weights.base import Base
from sonolora.ltx.weights.stored_tensor import PUBLISHED_PRECISION
from sonolora.modes import MODES
from sonolora.planning.run_settings import JOINT

MIN_CHANGE = 1e-3  # relative to the base's weights; below it a LoRA has almost no effect


@dataclass(frozen=True)
class Layer:
    """One layer of the LoRA. `change` is relative to the base's weight, None where it is unknown."""

    name: str
    kind: str
    adapter: str  # LoRA, LoHa, LoKr, full difference; with DoRA
    rank: int | None
    scale: float
    change: float | None


@dataclass(frozen=True)
class Kind:
    """All layers of one kind combined, or all layers."""

    kind: str
    layers: int
    change: float | None


@dataclass(frozen=True)
class Inspection:
    """The result. Changes are ||update|| / ||W||, Frobenius norms."""

    file: str
    made_by: str
    training_type: str | None
    trigger_phrase: str | None
    license: str | None
    metadata: Mapping[str, str]
    form: str
    dtypes: Sequence[str]
    ranks: Sequence[int]
    parameters: int
    base: str
    base_fingerprint: str
    trained_on: str | None  # fingerprint of the base that the LoRA names
    unused: Mapping[str, str]  # layers that the base or Sonolora cannot use, and why
    total: Kind
    kinds: Sequence[Kind]
    layers: Sequence[Layer]
    warnings: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """All fields; `misfits` is the former name of `unused`."""
        return {**asdict(self), "misfits": dict(self.unused)}

    def by_change(self) -> list[tuple[str, float]]:
        """Layers with a known change, strongest first."""
        known = [(layer.name, layer.change) for layer in self.layers if layer.change is not None]
        return sorted(known, key=lambda entry: -entry[1])


def inspect_lora(path: Path, base: Base) -> Inspection:
    """Inspect a LoRA. Raises `CheckpointError` for a file that is not a LoRA or cannot be read."""
    lora = open_lora(path)
    measured = strengths(lora, base.checkpoint)
    updates, metadata = lora.layers, lora.metadata
    by_kind = {kind: [layer for layer in updates if layer_kind(layer) == kind] for kind in KINDS}
    unused = {**unused_layers(lora, linear_layers(base.checkpoint)), **lora.skipped}
    return Inspection(
        file=path.name,
        made_by=_maker(metadata),
        training_type=metadata.get("mode"),
        trigger_phrase=metadata.get("trigger_phrase"),
        license=metadata.get("license"),
        metadata=metadata,
        form=lora.form,
        dtypes=sorted({info.dtype for update in updates.values() for info in update.factors.values()}),
        ranks=sorted({update.rank for update in updates.values() if update.rank is not None}),
        parameters=sum(update.parameters for update in updates.values()),
        base=base.name,
        base_fingerprint=base.fingerprint,
        trained_on=metadata.get("base_fingerprint"),
        unused=unused,
        total=Kind("all", len(updates), _combined(measured, updates)),
        kinds=[Kind(kind, len(layers), _combined(measured, layers)) for kind, layers in by_kind.items() if layers],
        layers=[
            Layer(
                name,
                layer_kind(name),
                update.kind + (" with DoRA" if update.is_dora else ""),
                update.rank,
                update.scale,
                _combined(measured, [name]),
            )
            for name, update in updates.items()
        ],
        warnings=[*lora.warnings, *_warnings(lora, measured, unused, base)],
    )


def _combined(measured: Mapping[str, Strength], layers: Iterable[str]) -> float | None:
    """The combined change of the measured ones of these layers; None if unknown or NaN, which JSON does not have."""
    relative = combine(measured[layer] for layer in layers if layer in measured).relative
    return None if relative is None or math.isnan(relative) else relative


def _maker(metadata: Mapping[str, str]) -> str:
    if "sonolora_version" in metadata:
        return f"Sonolora {metadata['sonolora_version']}"
    if PEFT_SETTINGS in metadata:
        return "diffusers and PEFT"
    if "lycoris" in metadata.get("ss_network_module", ""):
        return "LyCORIS"
    if any(key.startswith("ss_") for key in metadata):
        return "kohya's scripts or a descendant, such as musubi-tuner"
    return metadata.get("modelspec.implementation", "not recorded")


def _warnings(lora: LoRAFile, measured: Mapping[str, Strength], unused: Mapping[str, str], base: Base) -> Iterator[str]:
    if measured:
        yield from _strength_warnings(measured)
    kinds = Counter(layer_kind(layer) for layer in lora.layers)
    yield from (f"not used: {line}" for line in summarise(unused))
    if lora.metadata.get("base_fingerprint", base.fingerprint) != base.fingerprint:
        trained_on = lora.metadata.get("base", "unknown")
        yield f"it was trained on another base ({trained_on}); the changes are measured on {base.name}"
    if (weights := lora.metadata.get("base_weights", FULL)) != FULL:
        yield f"it was trained with --weights {weights}, and compensates in part for the quantisation error"
    if (precision := lora.metadata.get("base_precision", PUBLISHED_PRECISION)) != PUBLISHED_PRECISION:
        yield f"it was trained on a base stored as {precision}"
    if lora.metadata.get("v2a_video", JOINT) != JOINT:
        yield "it was trained with one-way video (frozen-cached); in other programs the video attends to the audio"
    mode = MODES.get(lora.metadata.get("mode", ""))
    video_layers = sum(kinds[name] for name in VIDEO_KINDS)
    if mode is not None and not mode.video and video_layers:
        yield f"it was trained for {mode.name}, which has no video, but {video_layers} of its layers need one"
    if not any(kinds[name] for name in (*AUDIO_KINDS, VIDEO_TO_AUDIO)):
        yield "it changes no layer that affects the audio directly"
    if count := kinds[TEXT]:
        yield f"{count} of its layers belong to the text conditioning: `merge` includes them, `generate` skips them"


def _strength_warnings(measured: Mapping[str, Strength]) -> Iterator[str]:
    broken = [layer for layer, strength in measured.items() if math.isnan(strength.change)]
    unchanged = [layer for layer, strength in measured.items() if strength.change == 0]
    relative = combine(measured.values()).relative
    if broken:
        yield f"{len(broken)} of {len(measured)} layers hold NaN or infinity, such as {broken[0]}: it cannot be used"
    if len(unchanged) == len(measured):
        yield "it has no effect: in every layer the update is zero"
    elif relative is not None and relative < MIN_CHANGE:
        yield f"it has almost no effect: the change is {relative:.2g} of the weights, below {MIN_CHANGE:g}"
    elif unchanged:
        yield f"{len(unchanged)} of {len(measured)} layers change nothing, such as {unchanged[0]}"
    if relative is not None and relative > 1:
        yield f"the change is {relative:.2g} times the weights: it is overtrained, or its alpha is wrong"
