"""`sonolora inspect` and `sonolora merge`: what a LoRA file is, and LoRAs merged into a checkpoint.

`inspect` ends with exit code 0 for every LoRA, whatever is odd about it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonolora.core.errors import InputError, SonoloraError
from sonolora.planning.lora_option import MAX_STRENGTH
from sonolora.planning.run_settings import RunSettings

if TYPE_CHECKING:
    from sonolora.ltx.lora.merge import MergeReport
    from sonolora.ltx.weights.base import Base
    from sonolora.runs.lora_files.inspect_lora import Inspection

_SHOWN = 3
_LARGE_ROUNDING = 0.25  # of the change
# Measured by `bench/verdict.py strengths` and with the LoRA of `sonolora demo`: docs/evaluation.md.
_SCALE = "(LoRAs on tiny that had learnt changed 2 to 15 % in all; for the effect on the sound see evaluation.json)"


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, from Sonolora or another tool.")],
    base: Annotated[
        str, typer.Option(metavar="NAME", help="The base model to compare with: a name, a folder or a Hugging Face id.")
    ] = RunSettings.base,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what a LoRA contains and whether it fits a base.

    Prints its origin, format and rank, how much it changes each part of the network, and warnings.
    """
    if not file.is_file():  # before anything heavy is imported
        raise SonoloraError(f"{file}: there is no such file")
    from sonolora.ltx.weights.base import find_base
    from sonolora.runs.lora_files.inspect_lora import inspect_lora

    result = inspect_lora(file, find_base(base))
    print(json.dumps(result.as_json(), indent=2, ensure_ascii=False, allow_nan=False) if as_json else _card(result))


def merge(
    lora: Annotated[list[Path], typer.Option(metavar="FILE", help="A LoRA; may be repeated.")],
    base: Annotated[str, typer.Option(metavar="NAME", help="The base model: a name or a folder.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The .safetensors file to write, as large as the base's checkpoint.")
    ],
    strength: Annotated[
        list[float] | None,
        typer.Option(metavar="X", help="Strength of the LoRAs: once for all, or once for each. [default: 1.0]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Merge LoRAs into a base checkpoint.

    The result has the published format: tools that load the base load it, too.
    """
    strengths = strength or [1.0]
    if len(strengths) == 1:
        strengths *= len(lora)
    if len(strengths) != len(lora):
        raise InputError.of(
            "strength", f"{len(strengths)} strengths for {len(lora)} LoRAs: give one, or one for each LoRA"
        )
    if not all(abs(one) <= MAX_STRENGTH for one in strengths):  # NaN is not
        raise InputError.of("strength", f"must be a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
    from sonolora.ltx.lora.lora_file import open_lora
    from sonolora.ltx.lora.lora_fit import summarise
    from sonolora.ltx.lora.merge import merge as merge_loras
    from sonolora.ltx.weights.base import find_base
    from sonolora.ltx.weights.hub import log_progress

    loras = list(zip(map(open_lora, lora), strengths, strict=True))
    original = find_base(base)
    merged = merge_loras(original.checkpoint, loras, out, overwrite=overwrite, progress=log_progress(out.name))
    print(f"merged:   {out}: {merged.layers} layers changed, by {_percent(merged.change)} of their weights")
    print(f"rounding: {_percent(merged.rounding)} of the weights, {_percent(merged.rounding_of_change)} of the change")
    print(f"          in size like a change of the strength by {merged.rounding_of_change:.2g}{_advice(merged)}")
    for one, _ in loras:
        for text in one.warnings:
            print(f"warning:  {one.path.name}: {_printable(text)}")
    for path, unused in zip(lora, merged.unused, strict=True):
        for line in summarise(unused):
            print(f"not used: {path.name}: {_printable(line)}")
    print(f"as base:  {_use(original, out)}")


def _advice(merged: MergeReport) -> str:
    return ": much of the LoRA is lost; use it unmerged" if merged.rounding_of_change > _LARGE_ROUNDING else ""


def _use(base: Base, out: Path) -> str:
    from sonolora.ltx.weights.base import BUILT_IN_NAMES

    if base.name in BUILT_IN_NAMES:
        return f"a folder that holds this file and a copy of {base.text_encoder}"
    return f"sonolora base add NAME --checkpoint {out} --text-encoder {base.text_encoder}"


def _card(result: Inspection) -> str:
    origin = {None: "the LoRA does not say which base it was trained on", result.base_fingerprint: "trained on it"}
    trained_on = origin.get(result.trained_on, "trained on another base")
    ordered = result.by_change()
    ranks = "rank " + (", ".join(map(str, result.ranks)) or "full")
    scales = sorted({layer.scale for layer in result.layers})
    scaled = (
        "" if scales in ([], [1.0]) else f", scale {scales[0]:g}" + (f" to {scales[-1]:g}" if len(scales) > 1 else "")
    )
    lines = [
        f"LoRA        {result.file}",
        f"made by     {_printable(result.made_by)}",
        f"trained for {_printable(result.training_type)}, trigger phrase {_printable(result.trigger_phrase)}",
        f"license     {_printable(result.license)}",
        f"format      {_printable(result.form)}; {', '.join(result.dtypes)}",
        f"size        {result.total.layers:,} layers, {ranks}{scaled}; {result.parameters:,} parameters",
        f"base        {result.base} ({result.base_fingerprint}); {trained_on}",
        f"fits        {_fit(result)}",
        "",
        f"{'changed part':<36} {'layers':>6}  change of the weights",
        *(f"{kind.kind:<36} {kind.layers:>6,}  {_percent(kind.change)}" for kind in (*result.kinds, result.total)),
        _SCALE,
        "",
        *(f"strongest   {name}  {_percent(change)}" for name, change in ordered[:_SHOWN]),
        *(f"weakest     {name}  {_percent(change)}" for name, change in ordered[_SHOWN:][-_SHOWN:]),
        *(f"warning: {_printable(text)}" for text in result.warnings),
    ]
    return "\n".join(lines)


def _fit(result: Inspection) -> str:
    if not result.unused:
        return "yes, every layer is used"
    part = "in part" if any(layer.name not in result.unused for layer in result.layers) else "no"
    return f"{part}: {len(result.unused):,} layers are not used"


def _percent(part: float | None) -> str:
    return "unknown" if part is None else f"{100 * part:.3g} %"


def _printable(text: str | None) -> str:
    """Text from a file of unknown origin, without characters that would steer a terminal."""
    return "not recorded" if text is None else "".join(char if char.isprintable() else "?" for char in text) or "none"
