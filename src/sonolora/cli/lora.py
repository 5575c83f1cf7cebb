"""The commands about LoRA files: `inspect` says what one is and does, `merge` bakes some into a checkpoint.

Thin, as all commands. `inspect` ends with 0 whatever it finds, as long as the file is a LoRA.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonolora.core.errors import InputError

if TYPE_CHECKING:
    from sonolora.ltx.weights.base import Base
    from sonolora.runs.inspect_lora import Inspection

_SHOWN = 3


def add_lora_commands(app: typer.Typer) -> None:
    """Make these commands of `sonolora`."""
    app.command()(inspect)
    app.command()(merge)


def inspect(
    file: Annotated[Path, typer.Argument(help="A LoRA, of Sonolora or of another tool.")],
    base: Annotated[str, typer.Option(help="The base to hold it to: a name, a folder, or a Hugging Face id.")] = "tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
) -> None:
    """Say what a LoRA is, whether it fits a base, how much it changes which part of it, and what is odd about it."""
    from sonolora.ltx.weights.base import find_base
    from sonolora.runs.inspect_lora import inspect_lora

    found = inspect_lora(file, find_base(base))
    print(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False) if as_json else _card(found))


def merge(
    lora: Annotated[list[Path], typer.Option(help="A LoRA; may be said several times.")],
    base: Annotated[str, typer.Option(help="The base: a name or a folder.")],
    out: Annotated[Path, typer.Option(help="The .safetensors to write, as large as the base's checkpoint.")],
    strength: Annotated[
        list[float] | None, typer.Option(help="Of the LoRAs: one for all, or one for each. [default: 1.0]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
) -> None:
    """Bake LoRAs into a whole checkpoint in the published form, which any tool reads that reads the base."""
    strengths = strength or [1.0]
    if len(strengths) == 1:
        strengths *= len(lora)
    if len(strengths) != len(lora):
        raise InputError.of("strength", f"{len(strengths)} strengths for {len(lora)} LoRAs; say one, or one for each")
    if not all(map(math.isfinite, strengths)):
        raise InputError.of("strength", "expected finite numbers")
    from sonolora.ltx.lora.lora_file import open_lora
    from sonolora.ltx.lora.lora_fit import summarise
    from sonolora.ltx.lora.merge import merge as bake
    from sonolora.ltx.weights.base import find_base
    from sonolora.ltx.weights.hub import log_progress

    loras = list(zip(map(open_lora, lora), strengths, strict=True))
    found = find_base(base)
    merged = bake(found.checkpoint, loras, out, overwrite=overwrite, progress=log_progress(out.name))
    print(f"merged:   {out}: {merged.layers} layers changed, by {_percent(merged.change)} of their weights")
    print(
        f"rounding: {_percent(merged.rounding)} of these weights, {_percent(merged.rounding_of_change)} of the change"
    )
    for path, unused in zip(lora, merged.unused, strict=True):
        for line in summarise(unused):
            print(f"not used: {path.name}: {_quoted(line)}")
    print(f"as base:  {_use(found, out)}")


def _use(base: Base, out: Path) -> str:
    from sonolora.ltx.weights.base import BUILT_IN_NAMES

    if base.name in BUILT_IN_NAMES:
        return f"a folder with this file alone and a copy of {base.text_encoder}"
    return f"sonolora base add NAME --checkpoint {out} --text-encoder {base.text_encoder}"


def _card(found: Inspection) -> str:
    on_this = {None: "it does not say on which it was trained", found.base_fingerprint: "it was trained on this one"}
    trained_on = on_this.get(found.trained_on, "it was trained on another")
    ordered = found.by_change()
    ranks = "rank " + (", ".join(map(str, found.ranks)) or "full")
    scales = sorted({layer.scale for layer in found.layers})
    scaled = "" if scales == [1.0] else f", scale {scales[0]:g}" + (f" to {scales[-1]:g}" if len(scales) > 1 else "")
    lines = [
        f"LoRA        {found.file}",
        f"made by     {_quoted(found.made_by)}",
        f"trained for {_quoted(found.training_type)}, trigger phrase {_quoted(found.trigger_phrase)}",
        f"license     {_quoted(found.license)}",
        f"format      {_quoted(found.form)}; {', '.join(found.dtypes)}",
        f"size        {found.total.layers:,} layers, {ranks}{scaled}; {found.parameters:,} parameters",
        f"base        {found.base} ({found.base_fingerprint}); {trained_on}",
        "fits        "
        + (f"in part: {len(found.unused):,} layers are not used" if found.unused else "yes, every layer is used"),
        "",
        f"{'what it changes':<36} {'layers':>6}  change of the weights",
        *(f"{kind.kind:<36} {kind.layers:>6,}  {_percent(kind.change)}" for kind in (*found.kinds, found.total)),
        "",
        *(f"strongest   {name}  {_percent(change)}" for name, change in ordered[:_SHOWN]),
        *(f"weakest     {name}  {_percent(change)}" for name, change in ordered[_SHOWN:][-_SHOWN:]),
        *(f"warning: {_quoted(text)}" for text in found.warnings),
    ]
    return "\n".join(lines)


def _percent(part: float | None) -> str:
    return "unknown" if part is None else f"{100 * part:.3g} %"


def _quoted(text: str | None) -> str:
    """What a stranger's file says, without what would steer a terminal."""
    return "not recorded" if text is None else "".join(char if char.isprintable() else "?" for char in text) or "none"
