"""`sonolora convert LORA --to FORM --out FILE`: a LoRA for another program, of a smaller rank, or its audio part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from sonolora.core.errors import InputError

_FORMS = "comfyui", "diffusers", "kohya"  # of sonolora.ltx.lora.convert, which imports torch
_DTYPES = "bf16", "fp16", "fp32"


def convert(
    lora: Annotated[Path, typer.Argument(metavar="LORA", help="A LoRA of any trainer.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .safetensors file to write.")],
    to: Annotated[str, typer.Option(metavar="|".join(_FORMS), help="Whose key names it gets.")] = "comfyui",
    rank: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Reduce each layer to this rank by its singular values.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="audio", help="Keep only the layers of the audio stream.")] = None,
    dtype: Annotated[str, typer.Option(metavar="|".join(_DTYPES), help="Precision of the new file.")] = "bf16",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Convert a LoRA for another program.

    Says how much of it a smaller rank and rounding lose, and with --only audio whether pictures stay as they are.
    """
    for field, value, known in (("to", to, _FORMS), ("only", only or "audio", ("audio",)), ("dtype", dtype, _DTYPES)):
        if value not in known:
            raise InputError.of(field, f"{value!r} is not one of {', '.join(known)}")
    if out.suffix != ".safetensors":
        raise InputError.of("out", f"{out} does not end with .safetensors")
    if out.exists() and ((lora.exists() and out.samefile(lora)) or not overwrite):
        raise InputError.of("out", f"{out} exists; choose another name, or add --overwrite for a file that is not LORA")
    import torch

    from sonolora.ltx.lora.convert import convert as convert_lora
    from sonolora.ltx.lora.convert import pictures_unchanged
    from sonolora.ltx.lora.lora_file import open_lora
    from sonolora.ltx.lora.lora_fit import summarise
    from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG

    source = open_lora(lora)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    result = convert_lora(source, out, to, rank=rank, only_audio=only is not None, dtype=precision)
    ranks = ", ".join(map(str, result.ranks))
    print(f"converted: {out}: {result.layers} layers for {to}, rank {ranks}, {dtype}")
    print(f"error:     {result.error:.2g} of the change, at most {result.worst[1]:.2g} ({result.worst[0]})")
    if result.skipped:
        print(f"skipped:   {len(result.skipped)} layers, such as {result.skipped[0]}")
    for line in source.warnings:
        print(f"warning:   {line}")
    for line in summarise(source.skipped):
        print(f"not read:  {line}")
    if only is not None:
        kept = {name: update for name, update in source.layers.items() if name not in result.skipped}
        last = max(_last_block(source.layers), LTX23_CONFIG["transformer"]["num_layers"] - 1)
        unchanged = pictures_unchanged(kept, last)
        print(
            "pictures:  unchanged, exactly: nothing of it reaches the video"
            if unchanged
            else "pictures:  a given video (v2a) stays as it is; where audio and video are generated together, the "
            "video attends to the audio in every block, and its pictures may change"
        )


def _last_block(layers: Iterable[str]) -> int:
    numbers = [int(name.split(".")[1]) for name in layers if name.startswith("transformer_blocks.")]
    return max(numbers, default=0)
