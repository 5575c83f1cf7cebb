"""The commands `sonolora base ...`: give base models a name, look at them, hold them to the published table.

Thin, like the other commands. Exit code 1 when something differs from what was published or is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonolora.core.errors import InputError
from sonolora.modes import MODES

if TYPE_CHECKING:
    from sonolora.ltx.weights.checkpoint import Checkpoint
    from sonolora.ltx.weights.partial_checkpoint import Progress

base_app = typer.Typer(rich_markup_mode=None, help="Name and check base models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name of a base.")]


@base_app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it from now on.")],
    checkpoint: Annotated[
        list[str],
        typer.Option(
            help="ltx-2.3-22b-dev.safetensors, or a Hugging Face id: Lightricks/LTX-2.3[/FILE]. Repeat it for a "
            "checkpoint in several files, or give their folder."
        ),
    ],
    text_encoder: Annotated[
        str,
        typer.Option(help="Gemma 3 12B: a folder, one file as for ComfyUI, or a Hugging Face id."),
    ],
    mode: Annotated[
        str, typer.Option(help="From a hub: fetch now what this mode needs; other modes fetch more when they run.")
    ] = "t2a",
) -> None:
    """Give a checkpoint and its text encoder one name. What it says of itself must be as published."""
    if mode not in MODES:
        raise InputError.of("mode", f"{mode!r} is not one of {', '.join(MODES)}")
    from sonolora.ltx.weights.base import add_base
    from sonolora.ltx.weights.hub import HubCheckpoint, open_local
    from sonolora.ltx.weights.tensor_table import needed

    entry = add_base(name, checkpoint, text_encoder)
    opened = open_local(entry.checkpoint)
    if isinstance(opened, HubCheckpoint):
        with _bar(opened.source.file) as progress:
            opened.fetch(needed(opened.tensors, video=MODES[mode].video), progress)
    print(f"--base {name} is {entry.checkpoint}\nwith the text encoder {entry.text_encoder}")


@base_app.command("list")
def list_bases() -> None:
    """All names that `--base` takes."""
    from sonolora.ltx.weights.base import BUILT_IN_NAMES
    from sonolora.ltx.weights.registry import registered, registry_file

    for name in BUILT_IN_NAMES:
        print(f"{name:<24} built in")
    for name, entry in registered().items():
        print(f"{name:<24} {entry.checkpoint}")
    print(f"(registered in {registry_file()})")


@base_app.command()
def show(name: Name) -> None:
    """What a base is, and what of it is on this disk."""
    from sonolora.ltx.weights.base import find_base
    from sonolora.ltx.weights.hub import HubCheckpoint
    from sonolora.ltx.weights.partial_checkpoint import open_excerpt
    from sonolora.ltx.weights.stored_tensor import files_of, stored_precision
    from sonolora.ltx.weights.tensor_table import needed

    base = find_base(name)
    checkpoint = base.checkpoint
    for path in files_of(checkpoint.tensors, checkpoint.path):
        print(f"checkpoint    {path}")
    print(f"model         version {checkpoint.metadata.get('model_version', 'unknown')}, {_amount(checkpoint)}")
    print(f"weights       {stored_precision(checkpoint.tensors)}")
    if isinstance(checkpoint, HubCheckpoint):
        excerpt = open_excerpt(checkpoint.path)
        here = excerpt.tensors.keys() if excerpt else set()
        enough = [
            words
            for words, video in (("the five audio modes", False), ("v2a", True))
            if here >= needed(checkpoint.tensors, video=video)
        ]
        print(f"from          {checkpoint.source.repository} at {checkpoint.source.revision[:12]}")
        print(f"on this disk  {_amount(excerpt) if excerpt else 'nothing yet'}: enough for", *(enough or ["no mode"]))
    print(f"text encoder  {base.text_encoder}")
    print(f"fingerprint   {base.fingerprint}")


@base_app.command()
def verify(
    name: Annotated[
        str, typer.Argument(help="The name of a base, its folder, a checkpoint file, or a Hugging Face id.")
    ],
    read: Annotated[bool, typer.Option("--read", help="Also read all that was fetched from a hub.")] = False,
) -> None:
    """Compare a base with the published table: every tensor's name, shape and dtype, and the header's values."""
    from sonolora.ltx.weights.base import BUILT_IN_NAMES, find_base
    from sonolora.ltx.weights.hub import HubCheckpoint, HubId, open_from_hub
    from sonolora.ltx.weights.partial_checkpoint import damaged_tensors, open_excerpt
    from sonolora.ltx.weights.registry import registered
    from sonolora.ltx.weights.verify import open_checkpoint, text_encoder_sizes, verify, verify_text_encoder

    found = []
    if Path(name).expanduser().is_file():
        checkpoint = open_checkpoint(Path(name).expanduser())
        findings = verify(checkpoint)
    elif name in BUILT_IN_NAMES:  # smaller than what is published, by the same rules
        base = find_base(name)
        checkpoint, (states, channels) = base.checkpoint, text_encoder_sizes(base.text_encoder)
        findings = verify(checkpoint, checkpoint.config, states)
        found += verify_text_encoder(base.text_encoder, states=states, channels=channels)
    elif (hub_id := HubId.parse(name)) and name not in registered() and not Path(name).exists():
        checkpoint = open_from_hub(hub_id)
        findings = verify(checkpoint)
    else:
        base = find_base(name)
        checkpoint, findings = base.checkpoint, verify(base.checkpoint)
        found += verify_text_encoder(base.text_encoder)
    found += findings.differences
    if isinstance(checkpoint, HubCheckpoint) and (excerpt := open_excerpt(checkpoint.path)):
        odd = [tensor for tensor, info in excerpt.tensors.items() if info.shape != checkpoint.tensors[tensor].shape]
        found += [f"on this disk: {tensor} has another shape than on the hub" for tensor in odd]
        found += [f"on this disk: {tensor} is damaged" for tensor in (damaged_tensors(checkpoint.path) if read else ())]
    for line in [*(f"difference: {line}" for line in found), *(f"note: {line}" for line in findings.notes)]:
        print(line)
    print(f"{checkpoint.path}: {_amount(checkpoint)}, {len(found) or 'no'} differences")
    raise typer.Exit(1 if found else 0)


@base_app.command()
def remove(
    name: Name,
    files: Annotated[bool, typer.Option("--files", help="Also delete what was fetched from a hub for it.")] = False,
) -> None:
    """Forget a name. Files stay where they are, unless asked otherwise."""
    from sonolora.ltx.weights.hub import HubCheckpoint, forget, open_local
    from sonolora.ltx.weights.registry import registered, unregister

    entry = unregister(name)
    fetched = isinstance(open_local(entry.checkpoint), HubCheckpoint) if entry.checkpoint.parent.is_dir() else False
    if files and fetched and entry.checkpoint not in [other.checkpoint for other in registered().values()]:
        forget(entry.checkpoint)
        print(f"'{name}' is forgotten and {entry.checkpoint} is deleted")
    else:
        print(f"'{name}' is forgotten; {entry.checkpoint} stays")


def _amount(checkpoint: Checkpoint) -> str:
    size = sum(info.end - info.start for info in checkpoint.tensors.values())
    return f"{len(checkpoint.tensors):,} tensors, {size / 1e9:.2f} GB"


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    from sonolora.ltx.weights.hub import log_progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield log_progress(what)
        return
    columns = TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(what)
        yield lambda done, total: bars.update(task, completed=done, total=total)
