"""`sonolora base scan [FOLDER]`: the bases in a ComfyUI installation, and the commands that add them.

The exit code is 1 when no complete base is found.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonolora.core.errors import SonoloraError

if TYPE_CHECKING:
    from sonolora.ltx.weights.base_scan import FoundBase, Scan


def scan(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="A ComfyUI installation, or any folder with models; by default the installations in the usual places "
            "($COMFYUI_PATH, this folder, home, Documents, /workspace, ...).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Find bases in a ComfyUI installation.

    Lists its files of LTX-2.3 with what they hold, which of them make a base together, and the commands that add them.
    Folders in extra_model_paths.yaml are searched, too. Only headers are read.
    """
    from sonolora.ltx.weights.base_scan import scan as scan_folders
    from sonolora.ltx.weights.comfyui_folders import VARIABLE, installations, model_folders

    places = [folder.expanduser().absolute()] if folder is not None else installations()
    if not places:
        raise SonoloraError(
            "no ComfyUI installation in the usual places: give its folder (sonolora base scan FOLDER), or set "
            f"${VARIABLE}"
        )
    folders = [one for place in places for one in model_folders(place)]
    result = scan_folders(folders)
    if as_json:
        print(json.dumps({"searched": [str(one.path) for one in folders], **_plain(result)}, indent=2))
    else:
        print("\n".join(_lines(places, len(folders), result)))
    raise typer.Exit(0 if any(base.is_complete for base in result.bases) else 1)


def _lines(places: list[Path], folders: int, result: Scan) -> Iterator[str]:
    yield from (f"searched {place}" for place in places)
    yield f"{folders} folders with models: {len(result.files)} files of LTX, {result.others} of other models"
    if result.files:
        yield ""
    for file in result.files:
        kind = f"{file.what}{f', {file.precision}' if file.precision else ''}"
        yield f"  {file.path}\n      {file.unusable or kind}"
    for base in result.bases:
        yield ""
        if not base.is_complete:
            yield f"incomplete: {base.files[0].path.name} lacks {'; '.join(base.missing)}"
            continue
        yield f"base {base.name}:"
        yield f"  {add_command(base)}"
        yield from (f"  or with --text-encoder {shlex.quote(str(one.path))}" for one in base.text_encoders[1:])
    if not result.bases:
        yield "\nno transformer of LTX-2.3 is there"


def add_command(base: FoundBase) -> str:
    """The command that registers a complete base."""
    checkpoints = [f"--checkpoint {shlex.quote(str(file.path))}" for file in base.files]
    encoder = f"--text-encoder {shlex.quote(str(base.text_encoders[0].path))}"
    return " ".join(["sonolora base add", shlex.quote(base.name), *checkpoints, encoder])


def _plain(result: Scan) -> dict[str, object]:
    files = [{**asdict(file), "path": str(file.path)} for file in result.files]
    bases = [
        {
            "name": base.name,
            "complete": base.is_complete,
            "missing": base.missing,
            "checkpoints": [str(file.path) for file in base.files],
            "text_encoders": [str(file.path) for file in base.text_encoders],
        }
        for base in result.bases
    ]
    return {"files": files, "bases": bases, "other_files": result.others}
