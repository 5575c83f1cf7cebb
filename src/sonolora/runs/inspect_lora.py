"""What a LoRA is and does: what it says of itself, how much it changes which part of a base, and what is odd about it.

In: a LoRA file and a base. Out: an `Inspection`, whose fields are also its JSON form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sonolora.ltx.lora.lora_file import PEFT_SETTINGS, LoRAFile, linear_layers, misfits, open_lora
from sonolora.ltx.lora.lora_strength import (
    AUDIO_KINDS,
    KINDS,
    PICTURE_INTO_SOUND,
    TEXT_CONNECTOR,
    VIDEO_KINDS,
    Strength,
    kind,
    strengths,
    together,
)
from sonolora.ltx.memory.weight_forms import FULL
from sonolora.ltx.weights.base import Base
from sonolora.modes import MODES
from sonolora.planning.run_settings import JOINT

LEAST_CHANGE = 1e-3  # of the base's weights; a LoRA that changes less does next to nothing


@dataclass(frozen=True)
class Layer:
    """One layer that the LoRA changes. `change` is in parts of the base's weights, None where that is unknown."""

    name: str
    kind: str
    rank: int
    scale: float
    change: float | None


@dataclass(frozen=True)
class Kind:
    """All layers of a kind, or all there are, taken together."""

    kind: str
    layers: int
    change: float | None


@dataclass(frozen=True)
class Inspection:
    """What was found. Changes are ||scale * B A|| / ||W||, Frobenius norms."""

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
    misfits: Mapping[str, str]
    total: Kind
    kinds: Sequence[Kind]
    layers: Sequence[Layer]
    warnings: Sequence[str]

    def by_change(self) -> list[tuple[str, float]]:
        """Layers whose change is known, the strongest first."""
        known = [(layer.name, layer.change) for layer in self.layers if layer.change is not None]
        return sorted(known, key=lambda entry: -entry[1])


def inspect_lora(path: Path, base: Base) -> Inspection:
    """Read and measure. Raises `CheckpointError` for a file that is no LoRA or cannot be read."""
    lora = open_lora(path)
    measured = strengths(lora, base.checkpoint)
    pairs, said = lora.pairs, lora.metadata
    grouped = {name: [layer for layer in pairs if kind(layer) == name] for name in KINDS}
    total = together(measured.values())
    return Inspection(
        file=path.name,
        made_by=_maker(said),
        training_type=said.get("mode"),
        trigger_phrase=said.get("trigger_phrase"),
        license=said.get("license"),
        metadata=said,
        form=lora.form,
        dtypes=sorted({info.dtype for pair in pairs.values() for info in (pair.down, pair.up)}),
        ranks=sorted({pair.rank for pair in pairs.values()}),
        parameters=sum(pair.rank * sum(pair.shape) for pair in pairs.values()),
        base=base.name,
        base_fingerprint=base.fingerprint,
        trained_on=said.get("base_fingerprint"),
        misfits=misfits(lora, linear_layers(base.checkpoint)),
        total=Kind("all", len(pairs), _known(total)),
        kinds=[
            Kind(name, len(layers), _known(together(measured[layer] for layer in layers)))
            for name, layers in grouped.items()
            if layers
        ],
        layers=[Layer(name, kind(name), pair.rank, pair.scale, _known(measured[name])) for name, pair in pairs.items()],
        warnings=list(_warnings(lora, measured, base)),
    )


def _known(strength: Strength) -> float | None:
    """What can be said of a change; JSON has no word for NaN."""
    return None if strength.relative is None or math.isnan(strength.relative) else strength.relative


def _maker(said: Mapping[str, str]) -> str:
    if "sonolora_version" in said:
        return f"Sonolora {said['sonolora_version']}"
    if PEFT_SETTINGS in said:
        return "diffusers and PEFT"
    if any(key.startswith("ss_") for key in said):
        return "a descendant of kohya's scripts, such as musubi-tuner"
    return said.get("modelspec.implementation", "not recorded")


def _warnings(lora: LoRAFile, measured: Mapping[str, Strength], base: Base) -> Iterator[str]:
    yield from _about_strength(measured)
    kinds = Counter(kind(layer) for layer in lora.pairs)
    foreign = misfits(lora, linear_layers(base.checkpoint))
    if foreign:
        layer, fault = next(iter(foreign.items()))
        yield f"{len(foreign)} of {len(measured)} layers do not fit the base {base.name}, such as {layer}: {fault}"
    if lora.metadata.get("base_fingerprint", base.fingerprint) != base.fingerprint:
        trained_on = lora.metadata.get("base", "unknown")
        yield f"it was trained on another base ({trained_on}) than {base.name}; the strengths are those on {base.name}"
    if (weights := lora.metadata.get("base_weights", FULL)) != FULL:
        yield f"it was trained with --weights {weights}, and makes up for a part of what that spoils"
    if lora.metadata.get("v2a_video", JOINT) != JOINT:
        yield "it was trained with films that do not hear the sound; programs other than Sonolora let them hear it"
    mode = MODES.get(lora.metadata.get("mode", ""))
    unheard = sum(kinds[name] for name in VIDEO_KINDS)
    if mode is not None and not mode.video and unheard:
        yield f"it was trained for {mode.name}, sound alone, but {unheard} of its layers are only used with a picture"
    if not any(kinds[name] for name in (*AUDIO_KINDS, PICTURE_INTO_SOUND)):
        yield "it changes nothing that the sound passes through"
    if count := kinds[TEXT_CONNECTOR]:
        yield f"{count} of its layers are of the text connector: `merge` bakes them in, `generate` refuses them"


def _about_strength(measured: Mapping[str, Strength]) -> Iterator[str]:
    broken = [layer for layer, strength in measured.items() if math.isnan(strength.change)]
    still = [layer for layer, strength in measured.items() if strength.change == 0]
    relative = together(measured.values()).relative
    if broken:
        yield f"{len(broken)} of {len(measured)} layers hold NaN or infinity, such as {broken[0]}: it cannot be used"
    if len(still) == len(measured):
        yield "it does nothing: in every layer A, B or alpha is zero"
    elif relative is not None and relative < LEAST_CHANGE:
        yield f"it does next to nothing: it changes the weights by {relative:.2g} of their size, below {LEAST_CHANGE:g}"
    elif still:
        yield f"{len(still)} of {len(measured)} layers change nothing, such as {still[0]}"
    if relative is not None and relative > 1:
        yield f"it changes the weights by {relative:.2g} times their own size: trained too far, or its alpha is wrong"
