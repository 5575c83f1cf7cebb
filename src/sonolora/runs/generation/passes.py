"""A sound from one call of `generate` or several, each of which goes on with what the one before has made.

In: passes, such as an extension forward and one backward, and LoRAs, each used in the passes that it fits. Out: the
sound. What is wrong is said of the fields as their request names them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError, ErrorItem, InputError
from sonolora.core.progress import Progress
from sonolora.data.fetch import Sources
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.modes.mode import Mode
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.runs.generation.generate import generate
from sonolora.runs.loaded_networks import Networks

_SEEDS = 1 << 32  # between two passes: seeds of requests are smaller
_DIRECTIONS = {"audio-extend-prefix": "forward", "audio-extend-suffix": "backward"}


@dataclass(frozen=True)
class Pass:
    """A call of `generate`; `names` are the request's names of fields of the body."""

    mode: Mode
    body: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedLoRA:
    """A LoRA with its strength and the field of the request that names it."""

    path: Path
    strength: float
    field: str


def generate_passes(
    passes: Sequence[Pass],
    loras: Sequence[NamedLoRA],
    settings: GenerateSettings,
    out: Path,
    progress: Progress,
    *,
    sources: Sources,
    networks: Networks,
) -> None:
    """Write `out`, a picture and in v2a the film beside it.

    A LoRA that extends in one direction is used in passes of that direction alone. Raises `InputError` for a LoRA that
    cannot be used or would be used nowhere, and as `generate`.
    """
    chosen = [[lora for lora in loras if _fits(lora, one.mode)] for one in passes]
    for lora in loras:
        if not any(lora in fitting for fitting in chosen):
            trained = _mode_of(lora)
            msg = f"this LoRA was trained for {trained}, which extends {_DIRECTIONS[trained]}: ask for that direction"
            raise InputError.of(lora.field, msg)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pass-") as scratch:
        made: Path | None = None
        for number, (one, fitting) in enumerate(zip(passes, chosen, strict=True)):
            last = number == len(passes) - 1
            body = one.body if made is None else {**one.body, "audio": str(made)}
            here = sources if made is None else replace(sources, known={**sources.known, str(made): made})
            made = out if last else Path(scratch) / f"{number}.wav"
            own = replace(settings, seed=settings.seed + number * _SEEDS, **_uses(fitting))
            try:
                generate(one.mode, body, own, made, progress, sources=here, networks=networks)
            except InputError as error:
                raise _renamed(error, one.names) from error
            except CheckpointError as error:
                raise _of_lora(error, fitting) from error


def _uses(loras: Sequence[NamedLoRA]) -> dict[str, Any]:
    if not loras:
        return {"lora": None}
    first, *more = loras
    return {
        "lora": first.path,
        "scale": first.strength,
        "more_loras": tuple((lora.path, lora.strength) for lora in more),
    }


def _mode_of(lora: NamedLoRA) -> str:
    try:
        return open_lora(lora.path).metadata.get("mode", "")
    except CheckpointError as error:
        raise _of_lora(error, [lora]) from error


def _fits(lora: NamedLoRA, mode: Mode) -> bool:
    """Whether the LoRA is not one of the other direction."""
    return mode.name not in _DIRECTIONS or _mode_of(lora) not in _DIRECTIONS.keys() - {mode.name}


def _renamed(error: InputError, names: Mapping[str, str]) -> InputError:
    """With the request's own names of the fields."""

    def rename(item: ErrorItem) -> ErrorItem:
        loc = tuple(names.get(part, part) if isinstance(part, str) else part for part in item.loc)
        return replace(item, loc=loc)

    return InputError([rename(item) for item in error.items])


def _of_lora(error: CheckpointError, loras: Sequence[NamedLoRA]) -> CheckpointError | InputError:
    """As a fault of the request, if it is about the file of one of the LoRAs."""
    for lora in loras:
        if str(lora.path) in str(error):
            return InputError.of(lora.field, str(error).replace(str(lora.path), lora.path.name))
    return error
