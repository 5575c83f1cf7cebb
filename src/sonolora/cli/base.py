"""`sonolora base ...`: register base models by name, show them, and verify them against the published tensor table.

The exit code is 1 when something is missing or differs from what was published.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonolora.cli.base_scan import scan
from sonolora.cli.help_pages import add_command, make_group
from sonolora.core.errors import InputError
from sonolora.modes import MODES

if TYPE_CHECKING:
    from sonolora.ltx.weights.checkpoint import Checkpoint
    from sonolora.ltx.weights.partial_checkpoint import Progress
    from sonolora.ltx.weights.registry import Entry

base_app = make_group("Manage base models.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A base model.")]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for it.")],
    checkpoint: Annotated[
        list[str],
        typer.Option(
            metavar="FILE|DIR|ID",
            help="ltx-2.3-22b-dev.safetensors, or a Hugging Face id: Lightricks/LTX-2.3[/FILE]. Repeat it for a "
            "checkpoint in several files, or give their folder.",
        ),
    ],
    text_encoder: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE|ID",
            help="Gemma 3 12B: a folder, one file as for ComfyUI (.safetensors, .gguf), or a Hugging Face id.",
        ),
    ],
    distilled: Annotated[
        bool | None,
        typer.Option(
            "--distilled/--not-distilled",
            help="Whether it is distilled, sampled in 8 steps without guidance; by default its header or name says so.",
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            metavar="MODE", help="From a hub: download what this mode needs; other modes download more when they run."
        ),
    ] = "t2a",
) -> None:
    """Register a checkpoint and its text encoder under a name.

    The header of the checkpoint must match the published LTX-2.3.
    """
    if mode not in MODES:
        raise InputError.of("mode", f"{mode!r} is not one of {', '.join(MODES)}")
    from sonolora.ltx.weights.base import add_base
    from sonolora.ltx.weights.hub import HubCheckpoint, open_local
    from sonolora.ltx.weights.tensor_table import needed

    entry = add_base(name, checkpoint, text_encoder, distilled)
    _ask_whether_distilled(name, entry)
    opened = open_local(entry.checkpoint)
    if isinstance(opened, HubCheckpoint):
        with _bar(opened.source.file) as progress:
            opened.fetch(needed(opened.tensors, video=MODES[mode].video), progress)
    print(f"--base {name} is {entry.checkpoint}\nwith the text encoder {entry.text_encoder}")


def _ask_whether_distilled(name: str, entry: Entry) -> None:
    """Where neither the header nor a name says so; without a terminal it is taken for a dev checkpoint."""
    from sonolora.ltx.weights.base import find_base
    from sonolora.ltx.weights.distilled import says_distilled
    from sonolora.ltx.weights.registry import register

    if entry.distilled is not None or says_distilled(find_base(name).checkpoint) is not None:
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        distilled = typer.confirm("Is it a distilled checkpoint (sampled in 8 steps without guidance)?", err=True)
        register(name, replace(entry, distilled=distilled))
    else:
        print("taken for a dev checkpoint, as neither its header nor its name says; --distilled if it is distilled")


def list_bases() -> None:
    """List the names that --base takes."""
    from sonolora.ltx.weights.base import BUILT_IN_NAMES
    from sonolora.ltx.weights.registry import registered, registry_file

    for name in BUILT_IN_NAMES:
        print(f"{name:<24} built in")
    for name, entry in registered().items():
        print(f"{name:<24} {entry.checkpoint}")
    print(f"(registered in {registry_file()})")


def show(name: Name) -> None:
    """Show a base: its files, and which modes it has all tensors for."""
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
    print(f"sampled       {'distilled: 8 steps without guidance' if base.distilled else '30 steps with guidance'}")
    if isinstance(checkpoint, HubCheckpoint):
        partial = open_excerpt(checkpoint.path)
        present = partial.tensors.keys() if partial else set()
        enough = [
            modes
            for modes, video in (("the five audio modes", False), ("v2a", True))
            if present >= needed(checkpoint.tensors, video=video)
        ]
        print(f"from          {checkpoint.source.repository} at {checkpoint.source.revision[:12]}")
        print(f"on this disk  {_amount(partial) if partial else 'nothing yet'}: enough for", *(enough or ["no mode"]))
    print(f"text encoder  {base.text_encoder}")
    print(f"fingerprint   {base.fingerprint}")


def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A base model, its folder, a checkpoint file, or a Hugging Face id.")
    ],
    read: Annotated[
        bool, typer.Option("--read", help="Also read every downloaded tensor and compare its checksum.")
    ] = False,
) -> None:
    """Verify a base against the published tensor table.

    Compares the name, shape and dtype of every tensor, and the values of the header.
    """
    from sonolora.ltx.weights.base import BUILT_IN_NAMES, find_base
    from sonolora.ltx.weights.hub import HubCheckpoint, HubId, open_from_hub
    from sonolora.ltx.weights.partial_checkpoint import damaged_tensors, open_excerpt
    from sonolora.ltx.weights.registry import registered
    from sonolora.ltx.weights.verify import open_checkpoint, text_encoder_sizes, verify, verify_text_encoder

    differences = []
    if Path(name).expanduser().is_file():
        checkpoint = open_checkpoint(Path(name).expanduser())
        findings = verify(checkpoint)
    elif name in BUILT_IN_NAMES:  # smaller than what is published, by the same rules
        base = find_base(name)
        checkpoint, (states, channels) = base.checkpoint, text_encoder_sizes(base.text_encoder)
        findings = verify(checkpoint, checkpoint.config, states)
        differences += verify_text_encoder(base.text_encoder, states=states, channels=channels)
    elif (hub_id := HubId.parse(name)) and name not in registered() and not Path(name).exists():
        checkpoint = open_from_hub(hub_id)
        findings = verify(checkpoint)
    else:
        base = find_base(name)
        checkpoint, findings = base.checkpoint, verify(base.checkpoint)
        differences += verify_text_encoder(base.text_encoder)
    differences += findings.differences
    if isinstance(checkpoint, HubCheckpoint) and (partial := open_excerpt(checkpoint.path)):
        reshaped = [
            tensor for tensor, info in partial.tensors.items() if info.shape != checkpoint.tensors[tensor].shape
        ]
        differences += [f"on this disk: {tensor} has another shape than on the hub" for tensor in reshaped]
        damaged = damaged_tensors(checkpoint.path) if read else ()
        differences += [f"on this disk: {tensor} is damaged" for tensor in damaged]
    for line in [*(f"difference: {line}" for line in differences), *(f"note: {line}" for line in findings.notes)]:
        print(line)
    print(f"{checkpoint.path}: {_amount(checkpoint)}, {len(differences) or 'no'} differences")
    raise typer.Exit(1 if differences else 0)


def remove(
    name: Name,
    files: Annotated[bool, typer.Option("--files", help="Also delete the files downloaded for it.")] = False,
) -> None:
    """Remove a name. The files stay, unless --files is given."""
    from sonolora.ltx.weights.hub import HubCheckpoint, forget, open_local
    from sonolora.ltx.weights.registry import registered, unregister

    entry = unregister(name)
    fetched = isinstance(open_local(entry.checkpoint), HubCheckpoint) if entry.checkpoint.parent.is_dir() else False
    if files and fetched and entry.checkpoint not in [other.checkpoint for other in registered().values()]:
        forget(entry.checkpoint)
        print(f"'{name}' is removed, and {entry.checkpoint} is deleted")
    else:
        print(f"'{name}' is removed; {entry.checkpoint} stays")


def publish(
    name: Name,
    files: Annotated[
        str, typer.Option("--files", metavar="URL", help="The server's object store: s3://bucket/prefix.")
    ],
) -> None:
    """Put a base into an object store, from which the nodes of a cluster fetch it.

    They know it by its fingerprint, and check every file. Files that are there are not sent again.
    """
    from sonolora.core.object_store import ObjectStore
    from sonolora.ltx.weights import stored_base
    from sonolora.ltx.weights.base import find_base

    base, objects = find_base(name), ObjectStore(files)
    with _bar(name) as progress:
        new = stored_base.publish(base, objects, progress)
    print(f"'{name}' {'is' if new else 'was'} in {files}, with the fingerprint {base.fingerprint}")


def _amount(checkpoint: Checkpoint) -> str:
    size = sum(info.end - info.start for info in checkpoint.tensors.values())
    return f"{len(checkpoint.tensors):,} tensors, {size / 1e9:.2f} GB"


@contextmanager
def _bar(file: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    from sonolora.ltx.weights.hub import log_progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield log_progress(file)
        return
    columns = TextColumn(file), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(file)
        yield lambda done, total: bars.update(task, completed=done, total=total)


_COMMANDS: dict[str, Callable[..., None]] = {
    "add": add,
    "scan": scan,
    "list": list_bases,
    "show": show,
    "verify": verify,
    "publish": publish,
    "remove": remove,
}
for _name, _command in _COMMANDS.items():
    add_command(base_app, _name, _command)
