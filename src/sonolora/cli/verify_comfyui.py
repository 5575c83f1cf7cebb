"""`sonolora verify-comfyui --comfyui FOLDER LORA`: a LoRA in ComfyUI's own code. Exit code 1 if it does not agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sonolora.planning.run_settings import RunSettings

_SHOWN = 5


def verify_comfyui(
    lora: Annotated[Path, typer.Argument(metavar="LORA", help="A LoRA.")],
    comfyui: Annotated[Path, typer.Option(metavar="DIR", help="The folder of ComfyUI.")],
    base: Annotated[str, typer.Option(metavar="NAME", help="The base model of the LoRA.")] = RunSettings.base,
    strength: Annotated[float, typer.Option(metavar="X", help="Strength of the LoRA.")] = 1.0,
    python: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="ComfyUI's Python; by default that in its folder, or this one."),
    ] = None,
) -> None:
    """Check a LoRA in ComfyUI's own code.

    Loads base and LoRA by ComfyUI's loaders, on the CPU, and compares what it does to each layer with Sonolora. The
    base's transformer must fit into host memory.
    """
    from sonolora.ltx.weights.base import find_base
    from sonolora.runs.lora_files.verify_comfyui import verify_comfyui as check

    result = check(comfyui, lora, find_base(base), strength, python)
    print(f"ComfyUI     {result.version}")
    print(f"layers      {len(result.errors):,} of {result.layers:,} are used")
    for layer in result.missing[:_SHOWN]:
        print(f"not used    {layer}")
    for text in result.not_loaded[:_SHOWN]:
        print(f"it says     {text}")
    if result.errors:
        print(f"difference  at most {result.worst[1]:.1e} of a layer's output ({result.worst[0]})")
    print("agrees: ComfyUI uses the whole LoRA as Sonolora does" if result.agrees else "does not agree")
    raise typer.Exit(0 if result.agrees else 1)
