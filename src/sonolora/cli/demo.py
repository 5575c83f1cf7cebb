"""`sonolora demo`: from nothing to a LoRA and a before/after comparison."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from sonolora.cli.stop_signal import StopSignal
from sonolora.cli.terminal import TerminalProgress, called_as
from sonolora.cli.train import print_outputs


def demo(out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("demo")) -> None:
    """Train a LoRA on synthetic clips, in about a minute.

    The base is tiny, a small model that comes with the program. The results are two audio files, before and after
    training, and a picture of both.
    """
    from sonolora.runs.demo import run_demo

    began = time.monotonic()
    with StopSignal().installed() as stop, TerminalProgress() as progress:
        result = run_demo(out, progress, stop)
    print(f"\nDone in {time.monotonic() - began:.0f} seconds.")
    print_outputs(result.run)
    print(f"\nlisten:   {out / 'before.wav'}, {out / 'after.wav'}, {out / 'real.wav'}\nlook:     {result.picture}")
    print(f"\nThe LoRA moved the base's output {result.moved:.0%} of the way to the real clips. With your own sounds:")
    print(f"  {called_as()} train t2a YOUR_CLIPS.zip --out my-run --prompt 'a prompt for previews'")
